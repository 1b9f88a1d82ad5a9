"""Losses of a distribution's shape that are no f-divergences: its cross-entropy, squared error, order and entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """-sum T log S: forward KL plus the target's entropy. Its gradient is forward KL's; at equality it is that entropy, not zero."""

    @property
    def traits(self) -> Traits:
        return Traits(is_divergence=False, reads_density=True)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return -torch.linalg.vecdot(target.exp(), student)


@dataclass(frozen=True, kw_only=True)
class SquaredError:
    """sum (T - S)^2, in [0, 2]: Brier's score of probabilities. No unit of information. https://arxiv.org/abs/2102.13088"""

    @property
    def traits(self) -> Traits:
        return Traits(needs_whole=True)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return (target.exp() - student.exp()).square().sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class PlackettLuce:
    """How unlikely the student ranks its own top k as the target does. sum_j [log sum_{l >= j} e^z(l) - z(j)].

    z are the student's logits in the target's order, j = 1 the target's favourite. Lowest where the student's logits fall steeply in
    that order; never zero. Released code sums over l <= j, which is lowest for the reversed order. https://arxiv.org/abs/2603.13260
    """

    num_ranked: int = 10

    @property
    def traits(self) -> Traits:
        return Traits(is_divergence=False, needs_whole=True)

    def __post_init__(self) -> None:
        if self.num_ranked < 2:
            raise ValueError(f"num_ranked is {self.num_ranked}; accepted: 2 or more")

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        chosen = student.detach().topk(min(self.num_ranked, student.shape[-1]), dim=-1).indices
        order = target.gather(-1, chosen).argsort(dim=-1, descending=True, stable=True)
        ranked = student.gather(-1, chosen.gather(-1, order))
        left = ranked.flip(-1).logcumsumexp(dim=-1).flip(-1)  # of this one and all behind it
        return (left - ranked).sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class StudentEntropy:
    """H(S) = -sum S log S: lowered, the student becomes surer of whatever it says. No target."""

    @property
    def traits(self) -> Traits:
        return Traits(is_divergence=False, needs_target=False, reads_density=True)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return -torch.linalg.vecdot(student.exp(), student)
