"""Learn a denoiser from data: predict what was added to an image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import HIDDEN, Draws, NoisedBatch
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class AnyTime:
    """States at a timestep drawn evenly, the class hidden from a share of them. From these the unguided net is learned."""

    drop_fraction: float

    def states(self, process: NoiseProcess, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        times = (draws.uniform[:, 0] * process.num_timesteps).long()
        is_hidden = draws.uniform[:, 1] < self.drop_fraction
        states = process.noised(draws.images, times, draws.noises[:, 0])
        return states, times, torch.where(is_hidden, HIDDEN, draws.labels)


@dataclass(frozen=True)
class Denoising:
    """E ||p(x_t, t, y) - target||^2, mean over the numbers of an image. Target: the noise, v or the image, as the scheduler says.

    https://arxiv.org/abs/2006.11239. `drop_fraction` in [0, 1): share of images whose class is hidden, for guidance.
    """

    drop_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_fraction < 1.0:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; accepted: from 0, below 1")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS)

    @property
    def start(self) -> AnyTime:
        return AnyTime(self.drop_fraction)

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch = views.batch
        target = views.process.target(batch.images, batch.times, batch.noises[:, 0])
        return all_count(mean_square(views.student - target))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self
