"""What a loss of a denoiser reads. The student's prediction at a batch's states, and nets that it may ask at others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.diffusion.net import Predict, guided
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import NoisedBatch, StartOf
from attar.compressors.distill.losses.objective import Objective, Terms

# The kind of views that a denoiser gives, and what an objective asks for that reads a second net of a student: one that denoises its
# images, and one that tells them from real ones, as they are or noised.
PREDICTIONS = "predictions"
CRITIC = "critic"
DISCRIMINATOR, NOISED_DISCRIMINATOR = "discriminator", "discriminator of noised images"


@dataclass(frozen=True)
class DenoisingViews:
    """The student's prediction at a batch's states, with gradient; others predict anywhere, without, the second nets with their own."""

    student: Float[Tensor, "B C H W"]
    batch: NoisedBatch
    process: NoiseProcess
    any_class: int
    teacher: Predict | None = None
    past: Predict | None = None
    anchor: Predict | None = None
    critic: Predict | None = None
    discriminator: Predict | None = None

    def of(self, name: Literal["teacher", "past", "critic", "discriminator"], guidance_scale: float = 1.0) -> Predict:
        """Return a net to ask. Raises ValueError where there is none."""
        net: Predict | None = getattr(self, name)
        if net is None:
            raise ValueError(f"the objective reads {name!r}, but nothing stands behind it in this training")
        return guided(net, guidance_scale, self.any_class)

    def moved(self, predicted: Tensor, states: Tensor, times: Tensor, later: Tensor) -> Tensor:
        """Return where a prediction takes states."""
        return self.process.moved(states, times, predicted, later)


class DenoisingObjective(Objective[NoisedBatch, DenoisingViews], Protocol):
    """An objective of a denoiser says where its states begin; None: wherever those of the others do."""

    @property
    def start(self) -> StartOf | None: ...


def all_count(values: Float[Tensor, "B"]) -> Terms:
    """Return terms that are all counted."""
    return Terms(values, torch.ones_like(values, dtype=torch.bool))


def mean_square(difference: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    """Return the mean over the numbers of each image of the squared difference."""
    return difference.float().square().flatten(1).mean(dim=1)
