"""Training of denoisers: how drawn images become batches, and nets the views of losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import NoisedBatch, NoisedImage, noised_batches
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews
from attar.compressors.distill.losses.objective import Observed, Whole
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.denoiser import DenoiserStudent
from attar.compressors.distill.teachers.outputs import Teachers


@dataclass(frozen=True)
class NoisedImages:
    """Noised images under a denoiser. A position is an image, its view the net, which a loss may ask at other states too."""

    process: NoiseProcess
    any_class: int

    def at(self, step: int) -> NoisedImages:
        return self

    def batches(
        self, examples: Sequence[NoisedImage], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[NoisedBatch]:
        return noised_batches(examples, order, tokens_per_batch)

    def observed(
        self, student: DenoiserStudent, output: Tensor, batch: NoisedBatch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        critic = None if student.critic is None else predictor(student.critic)
        views = DenoisingViews(
            output,
            batch.on(output.device),
            self.process,
            self.any_class,
            teachers.teacher,
            teachers.past,
            teachers.anchor,
            critic,
            student.discriminator,
        )
        return {PREDICTIONS: Whole(views)}

    def entropies(self, batch: NoisedBatch, teachers: Teachers) -> TokenStats:
        raise TypeError("a predicted image has no entropy; no loss of a denoiser asks for it")
