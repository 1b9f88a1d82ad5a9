"""Calibration text in batches, with which of its tokens count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from attar.compressors.models.slots import pad_right

CountedTokens = Literal["all", "last", "answer"]


@dataclass(frozen=True)
class Sample:
    """Token ids of one calibration text; `answer_start`: position of its answer's first token, 0 when it has no question."""

    ids: list[int]
    answer_start: int = 0


@dataclass(frozen=True)
class Batch:
    """Right-padded samples. `counted`: tokens whose states are scored; `predicted`: tokens whose prediction is."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    counted: Bool[Tensor, "B T"]
    predicted: Bool[Tensor, "B T"]


def batches(
    samples: Sequence[Sample], batch_size: int, device: torch.device, *, tokens: CountedTokens = "all", skip_first: bool
) -> Iterator[Batch]:
    """Yield the samples in order. `last` scores the state of each sample's last token; predictions then count for all its tokens.

    `skip_first` leaves the states of first tokens, which attention uses as a sink, out of the scores; nothing predicts them anyway.
    """
    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        input_ids, attention_mask = pad_right([sample.ids for sample in chunk], device)
        positions = torch.arange(input_ids.shape[1], device=device)[None]
        is_real = attention_mask.bool()
        answer_start = torch.tensor([sample.answer_start for sample in chunk], device=device)[:, None]
        is_answer = is_real & (positions >= answer_start)
        is_last = positions == attention_mask.sum(dim=1, keepdim=True) - 1
        counted = {"all": is_real, "last": is_last, "answer": is_answer}[tokens]
        predicted = (is_answer if tokens == "answer" else is_real) & (positions > 0)
        yield Batch(input_ids, attention_mask, counted & (positions > 0) if skip_first else counted, predicted)
