"""What a command raises, as its user sees it: lines of one mistake each, a traceback only with `--debug`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from attar.pipelines.recipe.mistakes import one_line

DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def refusals(debug: bool) -> Iterator[None]:
    """Print what is raised and exit. With 2 for a user's mistake, with 1 where the error says so or the fault is not the user's."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except ValueError as error:
        if debug:
            raise
        _tell(getattr(error, "lines", None) or [str(error)])
        raise typer.Exit(getattr(error, "exit_code", 2)) from error
    except Exception as error:
        if debug:
            raise
        text = str(error) or "no message"
        is_ours = not isinstance(error, OSError)
        _tell(
            [f"{type(error).__name__}: {text}" + (" (a fault of Attar's own: --debug shows where)" if is_ours else "")]
        )
        raise typer.Exit(1) from error


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command under `refusals`, with the option `--debug` whether or not it reads it itself."""
    signature = inspect.signature(command, eval_str=True)  # typer reads no text of another module
    reads_it = "debug" in signature.parameters

    @functools.wraps(command)
    def wrapped(*arguments: Any, debug: bool = False, **options: Any) -> None:
        with refusals(debug):
            command(*arguments, **options, **({"debug": debug} if reads_it else {}))

    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    parameters = [*signature.parameters.values(), *([] if reads_it else [option])]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**command.__annotations__, "debug": DebugOption}
    return wrapped


def _tell(lines: list[str]) -> None:
    console = Console(stderr=True, soft_wrap=True)
    for line in lines:
        console.print(f"attar: {one_line(line)}", style="red", markup=False, highlight=False)
