"""What calibration text shows of every expert. Sums over tokens, gathered in one pass without keeping a hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.models.experts import MoeLayer
from attar.compressors.prune.depth.scan import last_logits_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Routed:
    """Sums over the tokens of a pass, an entry an expert. All but `outputs` over the tokens that were sent to it."""

    # tokens
    counts: Float[Tensor, "N"]
    # of the router's weight, as it multiplies the expert's output
    weights: Float[Tensor, "N"]
    # of the L2 norm of the expert's output, before that weight
    norms: Float[Tensor, "N"]
    # of their product
    weighted_norms: Float[Tensor, "N"]
    # of the expert's output over all tokens, sent to it or not; empty unless the pass was dense
    outputs: Float[Tensor, "N D"]

    @staticmethod
    def empty(num_experts: int, width: int = 0) -> Routed:
        """Return sums over no tokens."""
        sums = torch.zeros(4, num_experts, dtype=torch.float64)
        return Routed(sums[0], sums[1], sums[2], sums[3], torch.zeros(num_experts, width, dtype=torch.float64))

    def of(self, experts: slice) -> Routed:
        """Return the sums of some neighbours."""
        return Routed(
            self.counts[experts],
            self.weights[experts],
            self.norms[experts],
            self.weighted_norms[experts],
            self.outputs[experts],
        )

    def add(self, experts: Int[Tensor, "T"], weights: Float[Tensor, "T"], norms: Float[Tensor, "T"]) -> None:
        """Add tokens. The expert that each was sent to, its weight, and the norm of what the expert made of it."""
        weights, norms = weights.double().cpu(), norms.double().cpu()
        experts = experts.cpu()
        for total, values in (
            (self.counts, torch.ones_like(weights)),
            (self.weights, weights),
            (self.norms, norms),
            (self.weighted_norms, weights * norms),
        ):
            total.index_add_(0, experts, values)


@dataclass
class ExpertScan:
    """The sums of every mixture of a model, while calibration text streams by. Memory O(experts), times the width when dense.

    `is_dense`: every expert also computes every token, which costs num_experts / top_k times the experts' work.
    """

    layers: Sequence[MoeLayer]
    is_dense: bool = False
    totals: list[Routed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.totals = [Routed.empty(layer.routing.num_experts) for layer in self.layers]

    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its tokens."""
        is_real = attention_mask.flatten().bool()
        with torch.no_grad(), _watched(self.layers, self.totals, is_real, is_dense=self.is_dense):
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))


@contextmanager
def _watched(
    layers: Sequence[MoeLayer], totals: Sequence[Routed], is_real: Bool[Tensor, "T"], *, is_dense: bool
) -> Iterator[None]:
    """Run experts apart, inside, so that each one's output is seen. The model computes what it computed."""
    watch = _watch_all if is_dense else _watch_chosen
    try:
        for layer, routed in zip(layers, totals, strict=True):
            layer.experts.forward = watch(layer.experts.forward, routed, is_real)
        yield
    finally:
        for layer in layers:
            layer.experts.__dict__.pop("forward", None)


def _watch_chosen(forward: Callable[..., Tensor], routed: Routed, is_real: Bool[Tensor, "T"]) -> Callable[..., Tensor]:
    """Run the experts of a token one after the other, each with weight 1: the work of one plain run in all."""

    def watched(hidden: Tensor, index: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]) -> Tensor:
        total = torch.zeros_like(hidden)
        for rank in range(index.shape[1]):
            output = forward(hidden, index[:, rank : rank + 1], torch.ones_like(weights[:, :1]))
            norms = output.float().norm(dim=-1)
            routed.add(index[is_real, rank], weights[is_real, rank], norms[is_real])
            total = total + weights[:, rank, None].to(output.dtype) * output
        return total.to(hidden.dtype)

    return watched


def _watch_all(forward: Callable[..., Tensor], routed: Routed, is_real: Bool[Tensor, "T"]) -> Callable[..., Tensor]:
    """Run every expert on every token."""

    def watched(hidden: Tensor, index: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]) -> Tensor:
        num_experts = len(routed.counts)
        if not routed.outputs.shape[1]:
            routed.outputs = torch.zeros(num_experts, hidden.shape[-1], dtype=torch.float64)
        total = torch.zeros_like(hidden)
        for expert in range(num_experts):
            output = forward(hidden, torch.full_like(index[:, :1], expert), torch.ones_like(weights[:, :1]))
            weight = (weights * (index == expert)).sum(dim=-1)
            is_sent = is_real & (index == expert).any(dim=-1)
            routed.add(
                torch.full_like(index[is_sent, 0], expert), weight[is_sent], output[is_sent].float().norm(dim=-1)
            )
            routed.outputs[expert] += output[is_real].double().sum(dim=0).cpu()
            total = total + weight[:, None].to(output.dtype) * output
        return total.to(hidden.dtype)

    return watched
