"""Score removals by leaving blocks out: candidates side by side, or greedily, each removal re-scored on what is left (SLEB)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import returns_tuple, without_blocks
from attar.compressors.prune.depth.calibration import Batch
from attar.compressors.prune.depth.scan import residual_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Candidate = frozenset[int]


class RemovalMetric(Protocol):
    """Loss of each token when blocks are left out, in nats, from the logits with all blocks and without some."""

    def __call__(
        self, original: Float[Tensor, "N V"], pruned: Float[Tensor, "N V"], targets: Int[Tensor, "N"]
    ) -> Float[Tensor, "N"]: ...


@dataclass(frozen=True)
class Removal:
    """One step of a greedy order. The block that went, and the mean score in nats a token of the model without it and all before."""

    block: int
    score_nats: float


def greedy_order(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    metric: RemovalMetric,
    *,
    num_steps: int,
    protected: frozenset[int] = frozenset(),
    on_run: Callable[[int], None] = lambda count: None,
) -> list[Removal]:
    """Remove the block whose removal hurts least, re-score all others without it, repeat. https://arxiv.org/abs/2402.09025"""
    order: list[Removal] = []
    left = [index for index in range(len(decoder_blocks(model))) if index not in protected]
    for _ in range(num_steps):
        gone = frozenset(removal.block for removal in order)
        scores = removal_scores(model, batches, metric, [gone | {index} for index in left], gone=gone, on_run=on_run)
        score, block = min(zip(scores, left, strict=True))
        order.append(Removal(block, score))
        left.remove(block)
    return order


@torch.no_grad()
def removal_scores(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    metric: RemovalMetric,
    candidates: Sequence[Candidate],
    *,
    gone: Candidate = frozenset(),
    on_run: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Return the mean score of each set of blocks to leave out, in nats a token. All contain `gone`.

    What lies before a candidate's first own block is not run again: its state is taken from the run without `gone`.
    """
    sums, is_tuple = [0.0] * len(candidates), returns_tuple(model)
    for batch in batches:
        original = batch_logits(model, batch)
        with residual_stream(model) as states, without_blocks(model, gone, is_tuple=is_tuple):
            batch_logits(model, batch)
        for index, candidate in enumerate(candidates):
            resume_at = min(candidate - gone)
            with without_blocks(model, candidate, resume_at, states[resume_at], is_tuple=is_tuple):
                sums[index] += summed_loss(metric, batch, original, batch_logits(model, batch))
            on_run(1)
    num_predicted = sum(int(batch.predicted.sum()) for batch in batches)
    return [total / num_predicted for total in sums]


def batch_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "B T V"]:
    """Return a batch's logits."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits


def summed_loss(
    metric: RemovalMetric, batch: Batch, original: Float[Tensor, "B T V"], pruned: Float[Tensor, "B T V"]
) -> float:
    """Return a batch's sum of losses over its predicted tokens, in nats."""
    total = 0.0
    for row, mask in enumerate(batch.predicted[:, 1:]):  # row by row: float32 logits of one sample at a time
        if mask.any():
            targets = batch.input_ids[row, 1:][mask]
            total += float(metric(original[row, :-1][mask], pruned[row, :-1][mask], targets).double().sum())
    return total
