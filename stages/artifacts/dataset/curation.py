"""A data set while it is curated: the rows still in it, and each dropped one with its reason."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attar.compressors.data.contamination import TaskQuestion, find_overlaps
from attar.compressors.data.diversity import farthest_points, text_features
from attar.compressors.data.duplicates import find_duplicates
from attar.compressors.data.filters import Length, PassRate, Repetition
from attar.compressors.data.keep import reason_kind
from attar.stages.artifacts.dataset.rows import Row

# A row that is alike to one of an earlier part is left out.
PARTS = ("heldout", "choose", "train")


@dataclass(frozen=True)
class Dropped:
    """A row that was left out, and why: a kind, with the detail in brackets behind it."""

    row: Row
    reason: str


class Curation:
    """Rows in their order, filtered step by step. Every step is a function of the rows alone: twice the same gives the same."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.dropped: list[Dropped] = []
        self._came_with = Counter(row.split for row in rows)

    @property
    def counts(self) -> Counter[str]:
        """How many rows were dropped, by kind of reason."""
        return Counter(reason_kind(drop.reason) for drop in self.dropped)

    def keep_lengths(self, least: int, most: int, unit: str, length_of: Callable[[Row], int]) -> None:
        """Keep rows whose length is within [least, most]; most 0 is no limit."""
        within = Length(least, most, unit)
        self._drop({i: why for i, row in enumerate(self.rows) if (why := within(length_of(row)))})

    def keep_varied(self, least: float) -> None:
        """Keep rows whose answer, or text, is not in a loop."""
        varied = Repetition(least)
        self._drop({i: why for i, row in enumerate(self.rows) if (why := varied(row.answer or row.text))})

    def keep_pass_rates(self, least: float, most: float) -> None:
        """Keep rows whose pass rate is within [least, most]. Raises ValueError when it is asked for and no row has one."""
        if (least, most) == (0.0, 1.0):
            return
        if self.rows and all(row.pass_rate is None for row in self.rows):
            name, value = ("min_pass_rate", least) if least else ("max_pass_rate", most)
            raise ValueError(f"{name} is {value}, but no row has a pass rate; run self_data on the rows before")
        within = PassRate(least, most)
        self._drop({i: why for i, row in enumerate(self.rows) if (why := within(row.pass_rate))})

    def keep_unique(self, threshold: float, part: Literal["question", "answer", "both"], shingle_words: int) -> None:
        """Keep the first of rows that are alike, held-out rows first, then those for choices. No row may repeat one of a part before it."""
        order = sorted(range(len(self.rows)), key=lambda i: PARTS.index(self.rows[i].split))
        texts = [_part(self.rows[i], part) for i in order]
        duplicates = find_duplicates(texts, threshold=threshold, shingle_words=shingle_words)
        reasons = {}
        for index, duplicate in duplicates.items():
            original = self.rows[order[duplicate.of]].id
            if duplicate.is_exact:
                reasons[order[index]] = f"duplicate (of {original})"
            else:
                reasons[order[index]] = f"near duplicate (of {original}, similarity {duplicate.similarity:.2f})"
        self._drop(reasons)

    def keep_unseen(
        self,
        tasks: Sequence[tuple[str, Sequence[Row]]],
        splits: Literal["train", "all"],
        *,
        ngram_words: int,
        min_ngram_words: int,
        max_ngram_rows: int,
    ) -> None:
        """Keep rows that hold no question, answer or text of the tasks, each a name with its rows."""
        questions = [
            TaskQuestion(name, row.id, row.question or row.text, row.answer) for name, rows in tasks for row in rows
        ]
        indices = [i for i, row in enumerate(self.rows) if splits == "all" or row.split != "heldout"]
        pairs = [(self.rows[i].question, f"{self.rows[i].answer} {self.rows[i].text}") for i in indices]
        overlaps = find_overlaps(
            pairs,
            questions,
            ngram_words=ngram_words,
            min_ngram_words=min_ngram_words,
            max_ngram_rows=max_ngram_rows,
        )
        self._drop(
            {
                indices[i]: f"overlaps {overlap.task} (row {overlap.row_id}: {overlap.shared!r})"
                for i, overlap in overlaps.items()
            }
        )

    def keep_budget(self, num_rows: int, fraction: float, by: Literal["farthest", "random"]) -> None:
        """Keep at most `num_rows` (0: all) and that share of the training rows. The farthest apart in words, or any by their ids' hash."""
        indices = [i for i, row in enumerate(self.rows) if row.split == "train"]
        num_kept = max(1, round(fraction * len(indices)))
        num_kept = min(num_kept, num_rows) if num_rows else num_kept
        if len(indices) <= num_kept:
            return
        if by == "farthest":
            chosen = set(farthest_points(text_features([_part(self.rows[i], "both") for i in indices]), num_kept))
        else:
            ranked = sorted(range(len(indices)), key=lambda index: zlib.crc32(self.rows[indices[index]].id.encode()))
            chosen = set(ranked[:num_kept])
        left_out = set(range(len(indices))) - chosen
        self._drop({indices[i]: f"over budget (more than {num_kept} training rows)" for i in left_out})

    def check(self) -> None:
        """Raise ValueError when there is nothing left to train on, or nothing to hold out, saying which filter took it."""
        left = Counter(row.split for row in self.rows)
        for split, part_name in (("train", "training"), ("heldout", "held-out")):
            if left[split]:
                continue
            if not self._came_with[split]:
                raise ValueError(
                    f"the data set has no {part_name} rows; set heldout_fraction in ingest_data above 0 and below 1"
                )
            counts = Counter(reason_kind(drop.reason) for drop in self.dropped if drop.row.split == split)
            why = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            raise ValueError(f"no {part_name} rows are left of {self._came_with[split]}: {why}")

    def _drop(self, reasons: Mapping[int, str]) -> None:
        self.dropped.extend(Dropped(self.rows[index], reasons[index]) for index in sorted(reasons))
        self.rows = [row for index, row in enumerate(self.rows) if index not in reasons]


def _part(row: Row, part: Literal["question", "answer", "both"]) -> str:
    text = row.answer or row.text
    if part == "answer":
        return text
    question = row.question or row.text
    return question if part == "question" else f"{row.question} {text}".strip()
