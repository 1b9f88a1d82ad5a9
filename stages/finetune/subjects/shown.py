"""Which demonstrations the teacher reads with each example, and the vectors that the student reads in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.teachers.contexts import ContextParts, Demonstrations, Shown
from attar.compressors.models.adapted import SoftTokens
from attar.stages.artifacts.dataset.prompts import wording_of
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.prefix.demonstrations import context_length, demonstration_ids, shown_in_turn
from attar.stages.artifacts.prefix.learning import BeforePrompt
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.runtime.progress import note


@dataclass(frozen=True)
class Demonstrated:
    """Rows whose teacher reads demonstrations. Of each example the group of vectors that stands for them; of each group what it stands for."""

    rows: TrainingRows
    train_groups: list[int]
    heldout_groups: list[int]
    shown_ids: list[list[int]]

    def behind(self, tokens: SoftTokens) -> TrainingRows:
        """Return the rows with each prompt behind its vectors."""
        train, heldout = (
            [
                replace(example, prompt_ids=[*tokens.ids(group), *example.prompt_ids])
                for example, group in zip(examples, groups, strict=True)
            ]
            for examples, groups in (
                (self.rows.train, self.train_groups),
                (self.rows.heldout, self.heldout_groups),
            )
        )
        return replace(self.rows, train=train, heldout=heldout)

    def refuse_longer(self, num_vectors: int, folder: Path) -> None:
        """Raise ValueError for a text, behind demonstrations or vectors, that is longer than the model in the folder reads."""
        limit, every = context_length(folder), [*self.rows.train, *self.rows.heldout]
        if not limit or not every:
            return
        longest = max(len(example.hinted_ids or ()) + len(example.answer_ids) for example in every)
        if longest > limit:
            raise ValueError(
                f"teacher.context: with its demonstrations a row has {longest} tokens, and the model reads {limit}; accepted: fewer of "
                "them (num_shown), or shorter ones"
            )
        longest = num_vectors + max(example.num_tokens for example in every)
        if longest > limit:
            raise ValueError(
                f"adapt.num_vectors is {num_vectors}: with them a row has {longest} tokens, and the model reads {limit}; accepted: fewer"
            )


def demonstrated(rows: TrainingRows, before: BeforePrompt, context: Demonstrations, tokenizer: Any) -> Demonstrated:
    """Return the rows with demonstrations of their own data set. Rows that stand in the only set there is are left out.

    A compressor's plain text is its own demonstration: its first part is compressed, the rest learned behind it. Raises ValueError where
    there are too few questions to show, or for plain text where the vectors are of one set.
    """
    builder = _Builder(rows, before, context, tokenizer)
    train = [
        builder.placed(example, row, source, index)
        for index, (example, row, source) in enumerate(zip(rows.train, rows.questions, rows.sources, strict=True))
    ]
    heldout = [
        builder.placed(example, row, source, index)
        for index, (example, row, source) in enumerate(
            zip(rows.heldout, rows.heldout_questions, rows.heldout_sources, strict=True)
        )
    ]
    staying = [index for index, some in enumerate(train) if some is not None]
    staying_heldout = [index for index, some in enumerate(heldout) if some is not None]
    if not staying:
        raise ValueError("no training row is left beside the demonstrations; accepted: more rows, or fewer of them")
    if (num_left_out := len(train) + len(heldout) - len(staying) - len(staying_heldout)) > 0:
        note(f"{num_left_out} rows stand in the demonstrations, and are not learned or evaluated behind them")
    placed, placed_heldout = [some for some in train if some], [some for some in heldout if some]
    return Demonstrated(
        replace(
            rows,
            train=[example for example, _ in placed],
            heldout=[example for example, _ in placed_heldout],
            shown=builder.sets,
            **{name: [getattr(rows, name)[index] for index in staying] for name in ("sources", "ids", "questions")},
            **{
                name: [getattr(rows, name)[index] for index in staying_heldout]
                for name in ("heldout_questions", "heldout_sources")
            },
        ),
        [group for _, group in placed],
        [group for _, group in placed_heldout],
        builder.shown_ids,
    )


class _Builder:
    """Sets of demonstrations by data set, and what each example's teacher reads of them."""

    def __init__(self, rows: TrainingRows, before: BeforePrompt, context: Demonstrations, tokenizer: Any) -> None:
        self.before, self.context = before, context
        self.wording = wording_of(tokenizer)
        self.sets: list[Shown] = []
        self.groups: dict[int, list[int]] = {}  # by data set
        by_source: dict[int, list[Row]] = {}
        for row, source in zip(rows.questions, rows.sources, strict=True):
            if row is not None:
                by_source.setdefault(source, []).append(row)
        for source, questions in by_source.items():
            is_shared = not before.text_fraction and bool(self.groups)  # one set, of the first data
            self.groups[source] = next(iter(self.groups.values())) if is_shared else self._sets_of(source, questions)
        self.shown_ids = [demonstration_ids(some, self.wording) for some in self.sets]

    def _sets_of(self, source: int, rows: Sequence[Row]) -> list[int]:
        count, first = self.context.num_shown, len(self.sets)
        sets = shown_in_turn(rows, count, self.before.num_sets)
        if not sets:
            raise ValueError(
                f"data {source + 1} has {len(rows)} training questions, and teacher.context shows {count}; accepted: at most {len(rows)}"
            )
        self.sets += sets
        return list(range(first, len(self.sets)))

    def placed(self, example: Example, row: Row | None, source: int, index: int) -> tuple[Example, int] | None:
        """Return an example with what its teacher reads, and its group; None for a row that stands in every set."""
        if row is None:
            return self._text(example)
        groups = self.groups.get(source) or next(iter(self.groups.values()))
        turns = [groups[(index + offset) % len(groups)] for offset in range(len(groups))]
        group = next(
            (turn for turn in turns if all(row.question != question for question, _ in self.sets[turn].pairs)), None
        )
        if group is None:
            return None
        parts = ContextParts(
            row.question, example.prompt_ids, example.answer_ids, demonstrations=self.sets[group].pairs
        )
        hinted = self.context(parts, self.wording)
        assert hinted is not None, "a set has a demonstration"
        return replace(example, hinted_ids=hinted), group

    def _text(self, example: Example) -> tuple[Example, int] | None:
        """Return the rest of a piece of text behind its beginning, which is a group of its own; None for one too short to part."""
        if not self.before.text_fraction:
            raise ValueError(
                "the data has plain text, and vectors of one set of demonstrations are learned of questions alone"
            )
        ids = [*example.prompt_ids, *example.answer_ids]
        cut = int(self.before.text_fraction * len(ids))
        if not 0 < cut < len(ids):
            return None
        self.shown_ids.append(ids[:cut])
        return replace(example, prompt_ids=[], answer_ids=ids[cut:], hinted_ids=ids[:cut]), len(self.shown_ids) - 1
