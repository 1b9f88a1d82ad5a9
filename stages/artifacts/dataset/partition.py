"""The three parts of a data set. Rows to train on, rows that choices are made on, and rows that are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeVar

from attar.stages.artifacts.dataset.rows import Row, Split, split_rows

# Of the rows held out, so many more are set apart for choices where nobody says how many.
CHOOSE_SHARE = 0.5


class HasPart(Protocol):
    """A row of any kind of data, which lies in one part."""

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced."""
        ...


R = TypeVar("R", bound=HasPart)


def parted(
    rows: Sequence[R], keys: Sequence[bytes], *, heldout_fraction: float, choose_fraction: float | None
) -> list[R]:
    """Return the rows with their part, by the order of their keys, hashes of what they are about.

    The smallest are held out and reported, the next are for choices, the others are learned. Rows of one key stay together. None: half
    as many for choices as are held out, at least one, as long as one is left to learn.
    """
    order = sorted(keys)
    heldout = set(order[: round(len(rows) * heldout_fraction)])
    rest = [key for key in order if key not in heldout]
    if choose_fraction is None:
        num_choose = max(1, round(len(rows) * heldout_fraction * CHOOSE_SHARE)) if heldout and len(rest) > 1 else 0
    else:
        num_choose = round(len(rows) * choose_fraction)
    choose = set(rest[:num_choose])
    parts: dict[bytes, Split] = {**dict.fromkeys(heldout, "heldout"), **dict.fromkeys(choose, "choose")}
    return [row.with_changes(split=parts.get(key, "train")) for row, key in zip(rows, keys, strict=True)]


def check_fractions(heldout_fraction: float, choose_fraction: float | None) -> None:
    """Raise ValueError for fractions that leave nothing to learn."""
    if choose_fraction and heldout_fraction + choose_fraction >= 1.0:
        raise ValueError(
            f"heldout_fraction and choose_fraction are {heldout_fraction:g} and {choose_fraction:g}, which leaves no row to train on; "
            "accepted: a sum below 1"
        )


def choosing_part(rows: Sequence[Row]) -> Split:
    """Return the part that choices are made on. Its own where there is one, else the held-out rows, which are reported too."""
    return "choose" if split_rows(rows, "choose") else "heldout"


def choosing_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that choices are made on."""
    return split_rows(rows, choosing_part(rows))


def shared_rows_note(name: str, what: str) -> str:
    """Return the line that tells of a data set whose held-out rows do both."""
    return (
        f"warning: {name} has no rows set apart for choices: its held-out rows {what} and are what an evaluation reads too, so that figures "
        "on them flatter; ingest it again (choose_fraction in ingest_data)"
    )
