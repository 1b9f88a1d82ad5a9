"""Which teachers of a pool teach, and how much: by how alike their features are to what is known of the target's examples.

DistillNearest and DistillWeighted, https://arxiv.org/abs/2304.12314. Of examples i, j of the target K_ij says how alike their annotations are:
1 of one class or of a pair of texts (of a graded pair its grade), 0 apart. A teacher's similarity sim is

    cka   <F, K> / (|F| |K|), F = X X^T of its features X, both centered             https://arxiv.org/abs/1905.00414
    parc  rank correlation of 1 - correlation(x_i, x_j) with 1 - K_ij, over i < j    https://arxiv.org/abs/2111.06977

of measure/ranking.py, and its weight sim^p / sum_s sim_s^p: with p = 0 all alike, with p without end the nearest alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Name of the heads that a student has for a pool's teachers, and not after training.
POOL_HEADS = "pool_heads"


@dataclass(frozen=True, kw_only=True)
class PoolRule:
    """How a pool is weighed: by which similarity, to which power (None: the nearest alone), on how many examples of the target."""

    similarity: Literal["cka", "parc"] = "cka"
    power: float | None = 9.0
    num_samples: int = 512

    def weights(self, similarities: Sequence[float]) -> list[float]:
        """Return each teacher's weight; they sum to 1. Raises ValueError where no teacher is alike to the target at all."""
        if self.power == 0:
            return [1.0 / len(similarities)] * len(similarities)
        if not max(similarities) > 0:
            raise ValueError(
                f"no teacher of the pool is alike to the target: {self.similarity} is {', '.join(f'{some:.3g}' for some in similarities)}; "
                "accepted: one above 0"
            )
        if self.power is None:
            nearest = similarities.index(max(similarities))
            return [float(index == nearest) for index in range(len(similarities))]
        logs = [math.log(some) if some > 0 else -math.inf for some in similarities]
        # of the ratio to the largest: the power of a small number may be none
        return torch.tensor([self.power * (some - max(logs)) for some in logs], dtype=torch.float64).softmax(0).tolist()


def add_pool_heads(student: nn.Module, layer: nn.Linear, num_classes: Sequence[int]) -> PoolHeads:
    """Give a student a head for each teacher of a pool, which reads what its own last layer reads, and return what runs them."""
    heads = nn.ModuleList(nn.Linear(layer.in_features, count) for count in num_classes).to(layer.weight.device)
    for head in heads:
        nn.init.zeros_(head.weight)  # type: ignore[arg-type] - of a linear layer
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    student.add_module(POOL_HEADS, heads)
    return PoolHeads(layer, heads)


@dataclass(frozen=True)
class PoolHeads:
    """The heads of a pool beside a classifier's own last layer."""

    layer: nn.Linear
    heads: nn.ModuleList

    def __call__(self, own: Callable[[], Float[Tensor, "N C"]]) -> Float[Tensor, "N W"]:
        """Return the logits of the classifier's own pass, and behind them those of every head on the same features."""
        read: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda layer, args: read.append(args[0]))
        try:
            logits = own()
        finally:
            handle.remove()
        return torch.cat([logits, *(head(read[0].float()) for head in self.heads)], dim=-1)
