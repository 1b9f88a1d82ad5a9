"""Block influence: one minus the cosine between the residual stream before and after a window."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BlockInfluence:
    """1 - cos, mean over tokens: 0 same direction, 2 opposite. https://arxiv.org/abs/2403.03853"""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]:
        return 1.0 - cosine.float()
