"""Turn examples into batches: several packed into one row without seeing each other, or one a row with padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.examples.sample_facts import SampleFacts


@dataclass(frozen=True)
class Example:
    """One training sequence: prompt tokens are context, answer tokens are learned.

    `top_*`: the teacher's candidates for the last T learned tokens, where it was recorded. `prefix`: what the first trained block
    receives for each token, where the blocks before it are frozen and were run once. `scale`: the guidance scale it was written under,
    where the student is conditioned on it. `teacher_states`: the teacher's last hidden state at each learned token, where it was run
    once. `hinted_ids`: what a teacher that knows more reads in place of the prompt, before the same
    answer. `facts`: how it was drawn and rewarded. `name`: of its row.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    top_ids: Int[Tensor, "T K"] | None = None
    top_logprobs: Float[Tensor, "T K"] | None = None
    prefix: Float[Tensor, "S D"] | None = None
    teacher_states: Float[Tensor, "T D"] | None = None
    scale: float | None = None
    hinted_ids: Sequence[int] | None = None
    facts: SampleFacts = field(default_factory=SampleFacts)
    name: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Batch:
    """Model inputs, and for each learned token where its logits lie (`rows`, `columns`), what it is, and its teacher.

    `has_teacher`: tokens that a recorded teacher speaks of, or a live one (all). `locations`: (index of the example, row, first column) of
    each example; `sequences`: which of them each learned token is of, and `facts` what is known of it. `hinted`: the same answers behind
    what the teacher reads. Packed rows carry `position_ids` that restart at each example and no attention mask: transformers keeps the
    examples apart by that. A mask of pairs says which columns each token sees (masked.py). `scales`: the guidance scale of each row, where
    the examples have one; they cannot be packed then.
    """

    input_ids: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B 1 T T"] | None
    rows: Int[Tensor, "N"]
    columns: Int[Tensor, "N"]
    next_ids: Int[Tensor, "N"]
    teacher_ids: Int[Tensor, "N K"] | None
    teacher_logprobs: Float[Tensor, "N K"] | None
    has_teacher: Tensor | None
    prefix: Float[Tensor, "B T D"] | None
    locations: list[tuple[int, int, int]]
    sequences: Int[Tensor, "N"]
    facts: tuple[SampleFacts, ...]
    hinted: Batch | None = None
    scales: Float[Tensor, "B"] | None = None
    teacher_states: Float[Tensor, "N D"] | None = None

    @property
    def num_positions(self) -> int:
        """How many tokens are learned."""
        return len(self.next_ids)

    @property
    def num_taught(self) -> int:
        """How many of them have a teacher."""
        return 0 if self.has_teacher is None else int(self.has_teacher.sum())

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> Batch:
        """Return what a teacher reads. The same answers behind its context, or this batch with the recorded states of its own blocks."""
        if is_hinted and self.hinted is not None:
            return self.hinted
        return self if keeps_prefix else replace(self, prefix=None)

    def taught_throughout(self) -> Batch:
        """Return the batch as a live teacher leaves it, who speaks of every token."""
        return replace(self, has_teacher=torch.ones_like(self.next_ids, dtype=torch.bool))


def batches(
    examples: Sequence[Example], *, tokens_per_batch: int, order: Sequence[int], is_packed: bool
) -> Iterator[Batch]:
    """Yield batches of at most `tokens_per_batch` tokens (padding counted), taking examples in `order`.

    An example that is longer than a batch gets one of its own. The sequences of one prompt stay together.
    """
    chosen: list[int] = []
    for unit in units(examples, order):
        if chosen and _cost([examples[i] for i in (*chosen, *unit)], is_packed) > tokens_per_batch:
            yield collate(examples, chosen, is_packed=is_packed)
            chosen = []
        chosen += unit
    if chosen:
        yield collate(examples, chosen, is_packed=is_packed)


def units(examples: Sequence[LearnedExample], order: Sequence[int]) -> list[list[int]]:
    """Return `order` in parts that must not be torn apart: the sequences of one group, or a single example."""
    bundles: list[list[int]] = []
    for index in order:
        group = examples[index].facts.group
        if bundles and group >= 0 and examples[bundles[-1][0]].facts.group == group:
            bundles[-1].append(index)
        else:
            bundles.append([index])
    return bundles


def collate(examples: Sequence[Example], chosen: Sequence[int], *, is_packed: bool) -> Batch:
    """Return one batch of the chosen examples: all in one row (`is_packed`), else one row each, padded on the right."""
    locations, num_rows, num_columns = _locations(examples, chosen, is_packed)
    input_ids = torch.zeros(num_rows, num_columns, dtype=torch.long)
    position_ids, mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    rows: list[int] = []
    columns: list[int] = []
    prefix = _empty_prefix(examples[chosen[0]], num_rows, num_columns)
    for index, row, start in locations:
        example = examples[index]
        end = start + example.num_tokens
        input_ids[row, start:end] = torch.tensor([*example.prompt_ids, *example.answer_ids])
        position_ids[row, start:end] = torch.arange(example.num_tokens)
        mask[row, start:end] = 1
        if prefix is not None:
            assert example.prefix is not None, "all examples of a batch were run through the frozen blocks, or none"
            prefix[row, start:end] = example.prefix
        first = start + len(example.prompt_ids) - 1  # the last prompt token predicts the first answer token
        rows.extend([row] * len(example.answer_ids))
        columns.extend(range(first, first + len(example.answer_ids)))
    next_ids = torch.tensor([token for index in chosen for token in examples[index].answer_ids])
    teacher = _teacher([examples[index] for index in chosen])
    return Batch(
        input_ids,
        position_ids,
        None if is_packed else mask,
        torch.tensor(rows),
        torch.tensor(columns),
        next_ids,
        *teacher,
        prefix,
        locations,
        torch.tensor([row for row, index in enumerate(chosen) for _ in examples[index].answer_ids]),
        tuple(examples[index].facts for index in chosen),
        _hinted(examples, chosen, is_packed),
        _scales([examples[index] for index in chosen], is_packed),
        _teacher_states([examples[index] for index in chosen]),
    )


def _teacher_states(examples: Sequence[Example]) -> Tensor | None:
    states = [example.teacher_states for example in examples if example.teacher_states is not None]
    assert len(states) in (0, len(examples)), "the teacher was run over all examples of a batch, or none"
    return torch.cat(states) if states else None


def _scales(examples: Sequence[Example], is_packed: bool) -> Tensor | None:
    scales = [example.scale for example in examples if example.scale is not None]
    if not scales:
        return None
    assert not is_packed and len(scales) == len(examples), "one scale a row"
    return torch.tensor(scales)


def _hinted(examples: Sequence[Example], chosen: Sequence[int], is_packed: bool) -> Batch | None:
    """Return the batch as the teacher reads it: other prompts, the same learned tokens in the same order."""
    if all(examples[index].hinted_ids is None for index in chosen):
        return None
    read = [
        Example(example.prompt_ids if example.hinted_ids is None else example.hinted_ids, example.answer_ids)
        for example in (examples[index] for index in chosen)
    ]
    return collate(read, range(len(read)), is_packed=is_packed)


def _teacher(examples: Sequence[Example]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    widths = {example.top_ids.shape[1] for example in examples if example.top_ids is not None}
    if not widths:
        return None, None, None
    width = widths.pop()
    ids, logprobs, has = [], [], []
    for example in examples:
        num_recorded = 0 if example.top_ids is None else len(example.top_ids)
        num_silent = len(example.answer_ids) - num_recorded  # before the recorded ones
        ids.append(torch.zeros(num_silent, width, dtype=torch.long))
        logprobs.append(torch.zeros(num_silent, width))
        if example.top_ids is not None and example.top_logprobs is not None:
            ids.append(example.top_ids.long())
            logprobs.append(example.top_logprobs)
        has.append(torch.arange(len(example.answer_ids)) >= num_silent)
    return torch.cat(ids), torch.cat(logprobs), torch.cat(has)


def _locations(
    examples: Sequence[Example], chosen: Sequence[int], is_packed: bool
) -> tuple[list[tuple[int, int, int]], int, int]:
    lengths = [examples[index].num_tokens for index in chosen]
    if not is_packed:
        return [(index, row, 0) for row, index in enumerate(chosen)], len(chosen), max(lengths)
    starts = [0, *itertools.accumulate(lengths)]
    return [(index, 0, start) for index, start in zip(chosen, starts, strict=False)], 1, starts[-1]


def _empty_prefix(example: Example, num_rows: int, num_columns: int) -> Tensor | None:
    if example.prefix is None:
        return None
    return torch.zeros(num_rows, num_columns, example.prefix.shape[-1], dtype=example.prefix.dtype)


def _cost(examples: Sequence[Example], is_packed: bool) -> int:
    lengths = [example.num_tokens for example in examples]
    return sum(lengths) if is_packed else len(lengths) * max(lengths)
