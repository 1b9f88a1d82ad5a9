"""Kullback-Leibler divergences in both directions and their sum. T is the target, S the student."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class ForwardKL:
    """KL(T || S) = sum T (log T - log S): the student covers all that the target does. https://arxiv.org/abs/1503.02531"""

    @property
    def traits(self) -> Traits:
        return Traits()

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return kl(target, student)


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """KL(S || T) = sum S (log S - log T): the student stays where the target is. https://arxiv.org/abs/2306.08543"""

    @property
    def traits(self) -> Traits:
        return Traits(needs_support=True)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return kl(student, target)


@dataclass(frozen=True, kw_only=True)
class Jeffreys:
    """forward_weight KL(T || S) + reverse_weight KL(S || T). Jeffreys' own has both at 1; both at 1/2 is the "mixed" KL of SD-Zero.

    https://arxiv.org/abs/2604.12002
    """

    forward_weight: float = 1.0
    reverse_weight: float = 1.0

    @property
    def traits(self) -> Traits:
        return Traits(needs_support=True)

    def __post_init__(self) -> None:
        if min(self.forward_weight, self.reverse_weight) <= 0:
            raise ValueError(
                f"forward_weight and reverse_weight are {self.forward_weight} and {self.reverse_weight}; accepted: above 0"
            )

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        share = self.forward_weight * target.exp() - self.reverse_weight * student.exp()
        return torch.linalg.vecdot(share, target - student)


def kl(p: Float[Tensor, "N C"], q: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """Return KL(p || q) of log-probabilities, in nats."""
    # vecdot never writes the product down, and as q - p the gradient in q is not written a second time
    return -torch.linalg.vecdot(p.exp(), q - p)
