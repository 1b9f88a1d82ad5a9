"""Which questions of a data set stand in demonstrations, and how long a text may be behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.compressors.distill.teachers.contexts import Shown, Wording, demonstration_text
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.safe_folder import read_object

# What configs call the longest text that a model reads.
LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len")


def context_length(folder: Path) -> int:
    """Return the most tokens that a model's config says it reads; 0 where it says nothing."""
    config = read_object(folder / "config.json")
    return next((int(config[name]) for name in LONGEST if config.get(name)), 0)


def demonstration_ids(shown: Shown, wording: Wording) -> list[int]:
    """Return the tokens of a set of demonstrations as a compressor reads them, the blank line behind them included."""
    return wording.encode(f"{demonstration_text(shown.pairs)}\n\n")


def shown_in_turn(rows: Sequence[Row], num_shown: int, num_sets: int) -> list[Shown]:
    """Return at most so many sets of demonstrations, of the first rows in their order; none of too few rows."""
    firsts = range(0, len(rows) - num_shown + 1, num_shown)[:num_sets]
    return [
        Shown(tuple(row.id for row in some), tuple((row.question, row.answer) for row in some))
        for some in (rows[first : first + num_shown] for first in firsts)
    ]
