"""Which teachers of a pool teach, and how much. By how alike their features are to what is known of the target's examples.

DistillNearest and DistillWeighted, https://arxiv.org/abs/2304.12314. Of examples i, j of the target K_ij says how alike their annotations are:
1 of one class or of a pair of texts (of a graded pair its grade), 0 apart. A teacher's similarity sim is

    cka   <F, K> / (|F| |K|), F = X X^T of its features X, both centered             https://arxiv.org/abs/1905.00414
    parc  rank correlation of 1 - correlation(x_i, x_j) with 1 - K_ij, over i < j    https://arxiv.org/abs/2111.06977

of measure/ranking.py, and its weight sim^p / sum_s sim_s^p: with p = 0 all alike, with p without end the nearest alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.teachers.classifier import reading_features
from attar.compressors.distill.teachers.outputs import TeacherOutputs

# What the heads of a pool are called among a student's weights: they go with the training.
POOL_HEADS = "pool_heads."


@dataclass(frozen=True, kw_only=True)
class PoolRule:
    """How a pool is weighed. By which similarity, to which power (None: the nearest alone), on how many examples of the target."""

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


class PoolStudent(nn.Module):
    """A classifier under training with a head for each teacher of a pool. Heads read what its own last layer reads.

    The heads begin at zero and learn with it; as a teacher of itself it tells its own classes alone.
    """

    reads: tuple[str, ...] = ()
    answer: ClassVar[None] = None  # heads of a loss do not stand beside these

    def __init__(self, student: Any, layer: nn.Linear, num_classes: Sequence[int]) -> None:
        super().__init__()
        self.model = student.model
        self.pool_heads = nn.ModuleList(nn.Linear(layer.in_features, count) for count in num_classes)
        self.pool_heads.requires_grad_(True).to(layer.weight.device)
        for parameter in self.pool_heads.parameters():
            nn.init.zeros_(parameter)
        self._own = (student, layer)  # no modules of its own: their weights go by the model's names
        self.train(student.training)

    def forward(self, batch: Any) -> Float[Tensor, "N W"]:
        """Return the logits of the student's own classes, and behind them those of every head on the same features."""
        student, layer = self._own
        with reading_features(layer) as features:
            logits = student(batch)
        return torch.cat([logits, *(head(features[0].float()) for head in self.pool_heads)], dim=-1)

    def train(self, mode: bool = True) -> Self:
        """Return it in this mode, or in the one that the student insists on."""
        super().train(mode)
        self._own[0].train(mode)
        return self

    def outputs(self, batch: Any, weights: Mapping[str, Tensor] | None = None) -> TeacherOutputs:
        """Return the student's own classes as a teacher's outputs."""
        return self._own[0].outputs(batch, weights)
