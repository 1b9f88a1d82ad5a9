"""Learn in one pass what guidance says in two. The target of guidance adapters, and of a net that is guided at one scale."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from attar.compressors.diffusion.net import two_passes
from attar.compressors.distill.examples.guided_paths import GuidedPaths
from attar.compressors.distill.examples.noised import NoisedBatch, StartOf, scales_between
from attar.compressors.distill.losses.denoising.segments import OnGrid
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class GuidedDistance:
    """E ||p(x_t, t, c, w) - (p_u + w (p_c - p_u))||^2: two passes of the teacher learned in one.

    p_c is the teacher's with the class, p_u with the one that means any. w is drawn evenly from [min_scale, max_scale]; 1 is no guidance.
    `is_rolled`: x_t are states of guided paths from noise, as https://arxiv.org/abs/2503.07274 has it, else noised images at the sampler's
    timesteps. The teacher is asked anew at every step, where the paper keeps its answers. At one scale a whole net learns it too,
    https://arxiv.org/abs/2210.03142.
    """

    min_scale: float = 1.0
    max_scale: float = 6.0
    is_rolled: bool = True
    num_rollouts: int = 1000
    num_steps: int = 25

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_scale <= self.max_scale:
            raise ValueError(
                f"min_scale is {self.min_scale:g} and max_scale {self.max_scale:g}; accepted: 0 or more, the first at most the second"
            )
        for name, least in (("num_rollouts", 10), ("num_steps", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {least} or more")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher"}))

    @property
    def start(self) -> StartOf | GuidedPaths:
        if not self.is_rolled:
            return OnGrid(self.num_steps)
        return GuidedPaths(
            num_rollouts=self.num_rollouts,
            num_steps=self.num_steps,
            min_scale=self.min_scale,
            max_scale=self.max_scale,
        )

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch = views.batch
        scales = scales_between(batch.uniform, self.min_scale, self.max_scale)
        with torch.no_grad():
            guided = two_passes(views.of("teacher"), batch.states, batch.times, batch.shown, scales, views.any_class)
        return all_count(mean_square(views.student - guided))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self
