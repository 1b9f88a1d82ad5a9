"""Other f-divergences: total variation, the alpha family with the KLs at its ends, chi-square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """1/2 sum |T - S|, in [0, 1]. Its gradient does not fade near equality. https://arxiv.org/abs/2307.15190"""

    @property
    def traits(self) -> Traits:
        return Traits()

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        return 0.5 * (target.exp() - student.exp()).abs().sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class AlphaDivergence:
    """Alpha divergence. (sum T^a S^(1-a) - 1) / (a (a - 1)), continuous in a; KL(T || S) at 1, KL(S || T) at 0, 4 (1 - sum sqrt(T S)) at 1/2.

    https://arxiv.org/abs/2604.00626
    """

    alpha: float = 0.5

    @property
    def traits(self) -> Traits:
        """At alpha 0 and below it is infinite where the target gives no mass."""
        return Traits(needs_support=self.alpha <= 0)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        if self.alpha == 1.0:
            return kl(target, student)
        if self.alpha == 0.0:
            return kl(student, target)
        log_ratio = target - student
        scale = self.alpha * (self.alpha - 1.0)
        # expm1 beside the nearer end: the sum's distance from 1 is what is left of it there
        if self.alpha > 0.5:
            return torch.linalg.vecdot(target.exp(), torch.expm1((self.alpha - 1.0) * log_ratio)) / scale
        return torch.linalg.vecdot(student.exp(), torch.expm1(self.alpha * log_ratio)) / scale


@dataclass(frozen=True, kw_only=True)
class ChiSquare:
    """forward: sum (T - S)^2 / S (Pearson's), reverse: sum (T - S)^2 / T (Neyman's). Unbounded: heavy where a ratio is large."""

    direction: Literal["forward", "reverse"] = "forward"

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "reverse"):
            raise ValueError(f"direction is {self.direction!r}; accepted: forward, reverse")

    @property
    def traits(self) -> Traits:
        """The reverse form is infinite where the target gives no mass."""
        return Traits(needs_support=self.direction == "reverse")

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        first, second = (target, student) if self.direction == "forward" else (student, target)
        return torch.linalg.vecdot(first.exp() - second.exp(), torch.expm1(first - second))
