"""Turn examples into batches: several packed into one row without seeing each other, or one a row with padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One training sequence: prompt tokens are context, answer tokens are learned; `top_*` (answer x K) where a teacher was recorded."""

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    top_ids: Int[Tensor, "T K"] | None = None
    top_logprobs: Float[Tensor, "T K"] | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Batch:
    """Model inputs, and for each learned token where its logits lie (`rows`, `columns`), what it is, and its teacher.

    Packed rows carry `position_ids` that restart at each example and no attention mask: transformers keeps the examples apart by that.
    """

    input_ids: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"] | None
    rows: Int[Tensor, "N"]
    columns: Int[Tensor, "N"]
    next_ids: Int[Tensor, "N"]
    teacher_ids: Int[Tensor, "N K"] | None
    teacher_logprobs: Float[Tensor, "N K"] | None
    has_teacher: Tensor | None


def batches(
    examples: Sequence[Example], *, tokens_per_batch: int, order: Sequence[int], is_packed: bool
) -> Iterator[Batch]:
    """Yield batches of at most `tokens_per_batch` tokens (padding counted), taking examples in `order`.

    An example that is longer than a batch gets one of its own.
    """
    chosen: list[Example] = []
    for index in order:
        candidate = [*chosen, examples[index]]
        if chosen and _cost(candidate, is_packed) > tokens_per_batch:
            yield collate(chosen, is_packed=is_packed)
            candidate = [examples[index]]
        chosen = candidate
    if chosen:
        yield collate(chosen, is_packed=is_packed)


def collate(examples: Sequence[Example], *, is_packed: bool) -> Batch:
    """Return one batch: all examples in one row (`is_packed`), else one row each, padded on the right."""
    lengths = [example.num_tokens for example in examples]
    num_columns = sum(lengths) if is_packed else max(lengths)
    num_rows = 1 if is_packed else len(examples)
    input_ids = torch.zeros(num_rows, num_columns, dtype=torch.long)
    position_ids, mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    rows: list[int] = []
    columns: list[int] = []
    offset = 0
    for index, example in enumerate(examples):
        row, start = (0, offset) if is_packed else (index, 0)
        end = start + example.num_tokens
        input_ids[row, start:end] = torch.tensor([*example.prompt_ids, *example.answer_ids])
        position_ids[row, start:end] = torch.arange(example.num_tokens)
        mask[row, start:end] = 1
        first = start + len(example.prompt_ids) - 1  # the last prompt token predicts the first answer token
        rows.extend([row] * len(example.answer_ids))
        columns.extend(range(first, first + len(example.answer_ids)))
        offset = end
    next_ids = torch.tensor([token for example in examples for token in example.answer_ids])
    teacher = _teacher(examples)
    return Batch(
        input_ids,
        position_ids,
        None if is_packed else mask,
        torch.tensor(rows),
        torch.tensor(columns),
        next_ids,
        *teacher,
    )


def _teacher(examples: Sequence[Example]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    widths = {example.top_ids.shape[1] for example in examples if example.top_ids is not None}
    if not widths:
        return None, None, None
    width = widths.pop()
    ids, logprobs, has = [], [], []
    for example in examples:
        num_answer = len(example.answer_ids)
        is_recorded = example.top_ids is not None and example.top_logprobs is not None
        ids.append(example.top_ids.long() if is_recorded else torch.zeros(num_answer, width, dtype=torch.long))  # type: ignore[union-attr]
        logprobs.append(example.top_logprobs if is_recorded else torch.zeros(num_answer, width))
        has.append(torch.full((num_answer,), is_recorded))
    return torch.cat(ids), torch.cat(logprobs), torch.cat(has)  # type: ignore[arg-type]


def _cost(examples: Sequence[Example], is_packed: bool) -> int:
    lengths = [example.num_tokens for example in examples]
    return sum(lengths) if is_packed else len(lengths) * max(lengths)
