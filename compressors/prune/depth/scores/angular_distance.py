"""Angular distance between the residual stream before and after a window."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AngularDistance:
    """arccos(cos) / pi, mean over tokens: 0 same direction, 1 opposite. https://arxiv.org/abs/2403.17887"""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]:
        # float32: near 1, where the best windows lie, bf16 has no digits left for acos and blocks would tie
        return cosine.float().clamp(-1.0, 1.0).arccos() / math.pi
