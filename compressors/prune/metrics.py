"""Scores of a window of blocks from the cosine between the residual stream before and after it: low means removable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class BlockMetric(Protocol):
    """Maps cosines to scores, elementwise; the scan averages the scores over tokens. Lower: closer to an identity."""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]: ...


@dataclass(frozen=True)
class AngularDistance:
    """arccos(cos) / pi: 0 same direction, 1 opposite. https://arxiv.org/abs/2403.17887"""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]:
        # float32: near 1, where the best windows lie, bf16 has no digits left for acos and blocks would tie
        return cosine.float().clamp(-1.0, 1.0).arccos() / math.pi


@dataclass(frozen=True)
class BlockInfluence:
    """1 - cos: 0 same direction, 2 opposite. https://arxiv.org/abs/2403.03853"""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]:
        return 1.0 - cosine.float()


BLOCK_METRICS: dict[str, type[BlockMetric]] = {
    "angular_distance": AngularDistance,
    "block_influence": BlockInfluence,
}
