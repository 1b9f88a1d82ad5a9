"""Divergences toward a mixture of target and student: bounded, and finite where one of the two gives no mass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class JensenShannon:
    """Generalized Jensen-Shannon divergence. b KL(T || M) + (1 - b) KL(S || M) with M = b T + (1 - b) S, at most H(b) nats. https://arxiv.org/abs/2306.13649

    It vanishes at both ends: JSD_b -> 0 as b -> 0 or 1, while JSD_b / b -> KL(T || S) and JSD_b / (1 - b) -> KL(S || T). With
    `is_normalized` the loss is JSD_b / (b (1 - b)), which is continuous on [0, 1]: forward KL at 0, reverse KL at 1. Published code
    returns the KLs at the ends without that factor, so that b = 0 and b = 0.001 differ a thousandfold; here the ends are refused.
    """

    beta: float = 0.5
    is_normalized: bool = False

    @property
    def traits(self) -> Traits:
        return Traits()

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta is {self.beta}; accepted: from 0 to 1")
        if self.beta in (0.0, 1.0) and not self.is_normalized:
            raise ValueError(
                f"beta is {self.beta}, where the divergence is 0 between any two; "
                "set is_normalized (its limit is a KL), or use forward_kl or reverse_kl"
            )

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        if self.beta == 0.0:
            return kl(target, student)
        if self.beta == 1.0:
            return kl(student, target)
        mixture = mix_logprobs(target, student, self.beta)
        value = self.beta * kl(target, mixture) + (1.0 - self.beta) * kl(student, mixture)
        return value / (self.beta * (1.0 - self.beta)) if self.is_normalized else value


@dataclass(frozen=True, kw_only=True)
class SkewKL:
    """A KL toward a mixture that keeps `skew` of its first side. https://arxiv.org/abs/2402.03898

    forward: KL(T || skew T + (1 - skew) S), reverse: KL(S || skew S + (1 - skew) T). Skew 0 is the plain KL; at most -log(skew) nats.
    """

    skew: float = 0.1
    direction: Literal["forward", "reverse"] = "forward"

    @property
    def traits(self) -> Traits:
        return Traits()

    def __post_init__(self) -> None:
        if not 0.0 < self.skew < 1.0:
            raise ValueError(f"skew is {self.skew}; accepted: between 0 and 1; at 0 it is forward_kl or reverse_kl")
        if self.direction not in ("forward", "reverse"):
            raise ValueError(f"direction is {self.direction!r}; accepted: forward, reverse")

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        first, second = (target, student) if self.direction == "forward" else (student, target)
        return kl(first, mix_logprobs(first, second, self.skew))


def mix_logprobs(first: Float[Tensor, "N C"], second: Float[Tensor, "N C"], share: float) -> Float[Tensor, "N C"]:
    """Return log(share exp(first) + (1 - share) exp(second)), `share` strictly between 0 and 1."""
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))
