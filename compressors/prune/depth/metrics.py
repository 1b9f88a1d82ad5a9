"""The catalogue of block metrics, by what each of them needs. Lower always means: removable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.prune.depth.gradient import GradientMetric
from attar.compressors.prune.depth.removal import RemovalMetric
from attar.compressors.prune.depth.scan import CosineMetric
from attar.compressors.prune.depth.scores.angular_distance import AngularDistance
from attar.compressors.prune.depth.scores.block_influence import BlockInfluence
from attar.compressors.prune.depth.scores.controls import RandomScore, ReverseOrder
from attar.compressors.prune.depth.scores.magnitude import Magnitude
from attar.compressors.prune.depth.scores.patch_residual import PatchResidual
from attar.compressors.prune.depth.scores.removal import KLIncrease, PerplexityIncrease
from attar.compressors.prune.depth.scores.taylor import Taylor, TaylorElementwise


class ControlMetric(Protocol):
    """Scores windows without reading model or data. Entry [i, j]: from before block i to before block j."""

    def __call__(self, num_blocks: int, generator: torch.Generator) -> Float[Tensor, "L L1"]: ...


class WeightMetric(Protocol):
    """Scores a block by its weights alone."""

    def __call__(self, weights: Iterable[Tensor]) -> float: ...


# Every window of every size, from one forward pass.
COSINE_METRICS: dict[str, type[CosineMetric]] = {
    "angular_distance": AngularDistance,
    "block_influence": BlockInfluence,
}
# Every window of every size, from nothing.
CONTROL_METRICS: dict[str, type[ControlMetric]] = {"reverse_order": ReverseOrder, "random": RandomScore}
# Single blocks, from the weights.
WEIGHT_METRICS: dict[str, type[WeightMetric]] = {"magnitude": Magnitude}
# Single blocks, from a forward and a backward pass.
GRADIENT_METRICS: dict[str, type[GradientMetric]] = {"taylor": Taylor, "taylor_elementwise": TaylorElementwise}
# An order of removal, from a forward pass for every block that is left, again after each removal.
REMOVAL_METRICS: dict[str, type[RemovalMetric]] = {
    "perplexity_increase": PerplexityIncrease,
    "kl_increase": KLIncrease,
}
# Windows of the sizes that are asked for, from one forward pass.
PATCH_METRICS: dict[str, type[PatchResidual]] = {"patch_residual": PatchResidual}

BLOCK_METRICS: dict[str, type] = {
    **COSINE_METRICS,
    **CONTROL_METRICS,
    **WEIGHT_METRICS,
    **GRADIENT_METRICS,
    **REMOVAL_METRICS,
    **PATCH_METRICS,
}
