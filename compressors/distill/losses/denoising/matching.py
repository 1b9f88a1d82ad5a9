"""Learn to predict what another denoiser predicts, at any noise: a warm start for a student of fewer weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from attar.compressors.distill.examples.noised import NoisedBatch
from attar.compressors.distill.losses.denoising.noise import AnyTime
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class TeacherMatching:
    """E ||p(x_t, t, y) - p_teacher(x_t, t, y)||^2, mean over the numbers of an image. Score matching to a teacher, on noised images.

    The first stage of students smaller than their teacher, https://arxiv.org/abs/2410.23274. `guidance_scale`: of the teacher, whose
    guidance the student then has without asking twice.
    """

    # share of images whose class is hidden, in [0, 1)
    drop_fraction: float = 0.0
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_fraction < 1.0:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; accepted: from 0, below 1")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher"}))

    @property
    def start(self) -> AnyTime:
        return AnyTime(self.drop_fraction)

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch = views.batch
        with torch.no_grad():
            target = views.of("teacher", self.guidance_scale)(batch.states, batch.times, batch.shown)
        return all_count(mean_square(views.student - target))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self
