"""Gradients of the calibration loss, for metrics that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.calibration import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GradientMetric(Protocol):
    """Scores a block by its weights and the gradients of the mean calibration loss in nats a token."""

    def __call__(self, weights: Iterable[tuple[Tensor, Tensor]]) -> float: ...


def gradient_scores(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    metrics: Mapping[str, GradientMetric],
    on_batch: Callable[[int], None] = lambda count: None,
) -> dict[str, list[float]]:
    """Return each metric's score of every block. Gradients are summed in float32; memory: one more float32 copy of the blocks."""
    num_predicted = sum(int(batch.predicted.sum()) for batch in batches)
    blocks = decoder_blocks(model)
    needed = {parameter: parameter.requires_grad for parameter in model.parameters()}
    inside = [parameter for block in blocks for parameter in block.parameters()]
    totals = {parameter: torch.zeros_like(parameter, dtype=torch.float32) for parameter in inside}
    try:
        for parameter in needed:
            parameter.requires_grad_(parameter in totals)
        for batch in batches:
            loss = _summed_loss(model, batch) / num_predicted
            for parameter, gradient in zip(inside, torch.autograd.grad(loss, inside, allow_unused=True), strict=True):
                if gradient is not None:
                    totals[parameter] += gradient
            on_batch(1)
    finally:
        for parameter, was_needed in needed.items():
            parameter.requires_grad_(was_needed)
    return {
        name: [
            metric([(parameter.detach(), totals[parameter]) for parameter in block.parameters()]) for block in blocks
        ]
        for name, metric in metrics.items()
    }


def _summed_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    with torch.enable_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        mask = batch.predicted[:, 1:]
        return nn.functional.cross_entropy(logits[:, :-1][mask].float(), batch.input_ids[:, 1:][mask], reduction="sum")
