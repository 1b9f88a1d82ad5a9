"""Score distillation: a one-step generator learns from how two denoisers differ, the teacher and one that follows its own images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import Draws, NoisedBatch
from attar.compressors.distill.losses.denoising.views import (
    CRITIC,
    PREDICTIONS,
    DenoisingViews,
    all_count,
    mean_square,
)
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

# Shares of the timesteps between which the two nets are compared: at the ends they say nothing of each other.
LOWEST, HIGHEST = 0.02, 0.98
# Below it a teacher's image equals the student's, and the scale of their difference is noise.
SMALLEST_GAP = 1e-3


@dataclass(frozen=True)
class PureNoise:
    """States that are noise alone, at the last timestep: what a one-step generator begins with."""

    def states(self, process: NoiseProcess, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        noise = draws.noises[:, 0]
        return noise, torch.full_like(draws.labels, process.num_timesteps - 1), draws.labels


@dataclass(frozen=True)
class Pull:
    """Images that a student made, and where the difference of two denoisers would have them."""

    made: Float[Tensor, "B C H W"]
    wanted: Float[Tensor, "B C H W"]
    noised: Float[Tensor, "B C H W"]
    times: Int[Tensor, "B"]

    @staticmethod
    def of(views: DenoisingViews, guidance_scale: float) -> Pull:
        """Return the pull of the teacher away from the net that follows the student's images; only `made` has a gradient."""
        batch, process = views.batch, views.process
        made = process.clean(batch.states, batch.times, views.student)
        with torch.no_grad():
            times = between(batch.uniform[:, 0], process)
            noised = process.noised(made, times, batch.noises[:, 1])
            real, fake = (
                process.clean(noised, times, predict(noised, times, batch.shown))
                for predict in (views.of("teacher", guidance_scale), views.of("critic"))
            )
            gap = (made - real).abs().flatten(1).mean(dim=1).clamp(min=SMALLEST_GAP)
            wanted = made - (fake - real) / gap[:, None, None, None]
        return Pull(made, wanted, noised, times)

    @property
    def half_square(self) -> Float[Tensor, "B"]:
        """A number an image whose slope in it is the pull."""
        return 0.5 * mean_square(self.made - self.wanted)


@dataclass(frozen=True)
class ScoreDistillation:
    """grad E_t KL(student's images || teacher's), noised: E[(D_fake(x_t) - D_teacher(x_t)) / mean|x - D_teacher| dx/dtheta].

    x = G(noise) in one step, x_t its noised form, D a net's image; no gradient goes through either net. Value: half that squared.
    https://arxiv.org/abs/2311.18828 without its regression, https://arxiv.org/abs/2305.18455; the reverse KL of https://arxiv.org/abs/2505.20755.
    """

    guidance_scale: float = 1.0

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher"}), projections=(CRITIC,))

    @property
    def start(self) -> PureNoise:
        return PureNoise()

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        return all_count(Pull.of(views, self.guidance_scale).half_square)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None  # its value does not fall as the student learns: nothing to judge weights by


@dataclass(frozen=True)
class FakeScore:
    """E ||p_fake(x_t, t, y) - target||^2 over the student's own images. The second net learns to denoise what the first one makes."""

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, projections=(CRITIC,))

    @property
    def start(self) -> None:
        return None

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process = views.batch, views.process
        # of its own draw, apart from where the two nets are compared
        times, noise = between(batch.uniform[:, 1], process), batch.noises[:, 1].flip(0)
        made = process.clean(batch.states, batch.times, views.student).detach()
        noised = process.noised(made, times, noise)
        predicted = views.of("critic")(noised, times, batch.shown)
        return all_count(mean_square(predicted - process.target(made, times, noise)))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None


def between(uniform: Float[Tensor, "B"], process: NoiseProcess) -> Int[Tensor, "B"]:
    """Return timesteps drawn evenly between the two ends."""
    return ((LOWEST + (HIGHEST - LOWEST) * uniform) * process.num_timesteps).long()
