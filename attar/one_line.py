"""What a call refuses, in one line: no traceback in a notebook, a plain exception in a script."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from attar.pipelines.recipe.mistakes import RecipeError, one_line

P = ParamSpec("P")
R = TypeVar("R")


class AttarError(ValueError):
    """A call was refused or could not be done; its text is one line, whose cause is `__cause__`."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in place of a traceback."""
        return [f"attar: {self}"]


def told_in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose refusals and failed reads and writes are raised as AttarError. A recipe's mistakes keep a line each."""

    @functools.wraps(function)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except (AttarError, RecipeError):
            raise
        except ValueError as error:
            raise AttarError(one_line(str(error))) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise AttarError(one_line(f"{error.strerror or error}{where}")) from error

    return wrapped
