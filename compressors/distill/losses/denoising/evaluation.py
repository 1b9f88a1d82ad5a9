"""Learn from data and from oneself. Where the net with a class and without it disagree on its image is what to mend."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.diffusion.process import CLEAN
from attar.compressors.distill.examples.noised import NoisedBatch
from attar.compressors.distill.losses.denoising.noise import AnyTime, Denoising
from attar.compressors.distill.losses.denoising.views import PREDICTIONS, DenoisingViews, all_count, mean_square
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

# Below it a state holds so little of an image that its ratio of noise to image is no number.
SMALLEST_ALPHA = 1e-3


@dataclass(frozen=True)
class SelfEvaluation:
    """||x - x_r||^2 / sigma_t^2, x predicted at x_t. x_r = x_0 + lambda (x - (G(x_s, -) - G(x_s, y))), made as long as x_0.

    x_s: x noised again, at an earlier s, in half of the draws at t itself, where x_r = x_0: learning from data, the v of which it then
    is. G: the image that who stands behind `past` predicts, without a class and with it; lambda = sigma_t / alpha_t - sigma_s / alpha_s.
    https://arxiv.org/abs/2512.22374, with a net that is told t alone.
    """

    # share of images whose class is hidden, in (0, 1): by these the half without a class learns
    drop_fraction: float = 0.1
    # how far before t the earlier timestep may be, as a share of t in [0, 1]; a ramp from 0 begins with learning from data
    reach: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.drop_fraction < 1.0:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; accepted: between 0 and 1")
        if not 0.0 <= self.reach <= 1.0:
            raise ValueError(f"reach is {self.reach}; accepted: from 0 to 1")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, sources=frozenset({"past"}))

    @property
    def start(self) -> AnyTime:
        return AnyTime(self.drop_fraction)

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process = views.batch, views.process
        made = process.clean(batch.states, batch.times, views.student)
        with torch.no_grad():
            wanted = self.wanted(views, made)
        gain = process.gain(batch.times, torch.full_like(batch.times, CLEAN))
        return all_count(mean_square((made - wanted) / gain))

    def wanted(self, views: DenoisingViews, made: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the images that the predicted ones are held to."""
        batch, earlier = views.batch, self.earlier(views.batch)
        own = made - disagreement(views, made, earlier)
        ratio = views.process.sigma / views.process.alpha.clamp(min=SMALLEST_ALPHA)
        factor = (ratio[batch.times.cpu()] - ratio[earlier.cpu()]).to(made.device)
        # without a class there is nothing to disagree on
        factor = torch.where(batch.shown == views.any_class, 0.0, factor)[:, None, None, None]
        mixed = (batch.images + factor * own) / (1.0 + factor)
        lengths = (image.flatten(1).norm(dim=1)[:, None, None, None] for image in (batch.images, mixed))
        length, own_length = lengths
        return mixed * length / own_length.clamp(min=torch.finfo(mixed.dtype).tiny)

    def earlier(self, batch: NoisedBatch) -> Int[Tensor, "B"]:
        """Return the timesteps that the predicted images are judged at. In half of the draws they were predicted there."""
        back = torch.where(batch.uniform[:, 2] < 0.5, 0.0, self.reach * batch.uniform[:, 3])
        return ((1.0 - back) * batch.times).long()

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return Denoising(self.drop_fraction) if "past" in moving else self


def disagreement(
    views: DenoisingViews, made: Float[Tensor, "B C H W"], times: Int[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """Return the image predicted without a class, minus that with it, where a made image was noised again."""
    batch, process, judge = views.batch, views.process, views.of("past")
    noised = process.noised(made, times, batch.noises[:, 1])
    without = torch.full_like(batch.shown, views.any_class)
    unguided, guided = (
        process.clean(noised, times, judge(noised, times, classes)) for classes in (without, batch.shown)
    )
    return unguided - guided
