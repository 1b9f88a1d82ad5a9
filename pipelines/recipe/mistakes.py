"""The mistakes of a recipe: each one line of bounded length, all of them at once, in bounded time."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A screen of them; who made more mends these first.
MAX_LINES = 20
MAX_LINE_LENGTH = 1000
# How much of a wrong value a line repeats.
MAX_SHOWN_LENGTH = 120


class RecipeError(ValueError):
    """The recipe is wrong: `lines` says how, one line a mistake, for its author."""

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(one_line, lines))
        super().__init__(*self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in place of a traceback."""
        return [f"attar: {line}" for line in self.lines]


class Mistakes:
    """Lines gathered while a recipe is checked; once `is_full`, looking for more is a waste of time."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether there are as many as will be told."""
        return len(self.lines) >= MAX_LINES

    def add(self, *lines: str) -> None:
        """Note mistakes, as far as there is room."""
        self.lines.extend(lines[: max(0, MAX_LINES - len(self.lines))])

    @contextmanager
    def noted(self, where: str = "") -> Iterator[None]:
        """Note what the block raises for its user, and go on behind it. `where` begins the lines that do not say it themselves."""
        try:
            yield
        except RecipeError as error:
            self.add(*error.lines)
        except OSError as error:  # a path that is too long, or a folder that may not be read
            self.add(f"{where}{error.strerror or error}: {shown(error.filename)}")
        except ValueError as error:
            self.add(f"{where}{error}")

    def refuse(self) -> None:
        """Raise RecipeError with all of them, if there are any."""
        if self.lines:
            raise RecipeError(*self.lines, *(["there may be more mistakes: mend these first"] if self.is_full else []))


def shown(value: Any) -> str:
    """Return a value as Python writes it, the middle of a long one left out."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_SHOWN_LENGTH
    short.maxlist = short.maxdict = 6
    short.maxlevel = 3
    return _cut(short.repr(value), MAX_SHOWN_LENGTH)


def one_line(text: str) -> str:
    """Return a text on one line that any terminal can show. The middle of a long text is left out."""
    line = " ".join(_cut(text, 4 * MAX_LINE_LENGTH).split())
    return _cut("".join(char if char.isprintable() else "?" for char in line), MAX_LINE_LENGTH)


def _cut(text: str, length: int) -> str:
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
