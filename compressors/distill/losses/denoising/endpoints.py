"""Learn in one step where the teacher's sampler ends, from the same noise."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from attar.compressors.diffusion.sampler import unrolled
from attar.compressors.distill.examples.noised import NoisedBatch
from attar.compressors.distill.losses.denoising.scores import PureNoise
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class EndpointDistance:
    """||G(z) - x_0(z)||^2, mean over the numbers of an image. x_0(z): the end of the teacher's path from noise z in `num_steps` steps.

    https://arxiv.org/abs/2101.02388; beside score distillation what keeps it from leaving images out, https://arxiv.org/abs/2311.18828.
    The teacher runs so many forwards at every step: one that needs few, such as a student by segments, is a cheap teacher.
    """

    num_steps: int = 4
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_steps < 2:
            raise ValueError(f"num_steps is {self.num_steps}; accepted: 2 or more")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher"}))

    @property
    def start(self) -> PureNoise:
        return PureNoise()

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process = views.batch, views.process
        teacher = views.of("teacher", self.guidance_scale)
        with torch.no_grad():
            ends = unrolled(teacher, process, batch.states, batch.shown, self.num_steps)
        return all_count(mean_square(process.clean(batch.states, batch.times, views.student) - ends))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self
