"""First-order estimates of how the calibration loss changes when a block's weights go to zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Taylor:
    """The loss change to first order when a block's weights vanish. |sum of w * dloss/dw| in nats a token, signs cancelling."""

    def __call__(self, weights: Iterable[tuple[Tensor, Tensor]]) -> float:
        return abs(sum(float((weight.double() * gradient.double()).sum()) for weight, gradient in weights))


@dataclass(frozen=True)
class TaylorElementwise:
    """Sum over a block's weights of |w * dloss/dw|, in nats a token: each weight for itself. https://arxiv.org/abs/2402.02834"""

    def __call__(self, weights: Iterable[tuple[Tensor, Tensor]]) -> float:
        return sum(float((weight.double() * gradient.double()).abs().sum()) for weight, gradient in weights)
