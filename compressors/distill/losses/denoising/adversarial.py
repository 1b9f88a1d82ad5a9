"""Learn one step from a second net alone, which tells the student's images from real ones. No teacher is asked."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import softplus

from attar.compressors.diffusion.net import Predict
from attar.compressors.distill.examples.noised import NoisedBatch
from attar.compressors.distill.losses.denoising.scores import PureNoise, between
from attar.compressors.distill.losses.denoising.views import (
    DISCRIMINATOR,
    NOISED_DISCRIMINATOR,
    PREDICTIONS,
    DenoisingViews,
    all_count,
)
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class Adversarial:
    """E softplus(-D(G(z), y)), mean over the heads of D. The student makes images of noise in one forward that D takes for real ones.

    Non-saturating: https://arxiv.org/abs/1406.2661; for a denoiser that becomes a generator: https://arxiv.org/abs/2405.20750. D, a second
    net, learns by `discriminator` beside it, and not by this.
    """

    # show D noised images, at a timestep drawn evenly, and not the images themselves
    is_noised: bool = False

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, projections=(_shown_to(self.is_noised),))

    @property
    def start(self) -> PureNoise:
        return PureNoise()

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process = views.batch, views.process
        made = process.clean(batch.states, batch.times, views.student)
        held = made.detach().requires_grad_(True)
        times, states = held_times(views, self.is_noised), held
        if self.is_noised:
            states = process.noised(held, times, batch.noises[:, 1])
        values = softplus(-logits_of(views.of("discriminator"), states, times, batch.shown)).mean(dim=1)
        # the slope in the images alone: no weight of D gets a gradient, which would teach it to be deceived
        (slope,) = torch.autograd.grad(values.sum(), held)
        return all_count(values.detach() + (slope * (made - made.detach())).flatten(1).sum(dim=1))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None  # it says how D and the student stand to each other, and nothing of the images


@dataclass(frozen=True)
class Discriminator:
    """E softplus(D(G(z), y)) + softplus(-D(x, y)) + gamma/2 ||dD/dx||^2. D learns to tell the student's images from real ones.

    https://arxiv.org/abs/1406.2661, with the penalty R1 on real images, https://arxiv.org/abs/1801.04406. D is heads on the blocks of
    the student's net as it begins, frozen. At its best it is the logarithm of real images' density over made ones'.
    """

    # gamma, 0 or more; 0 spares a second derivative
    gradient_penalty: float = 1e-4
    # of noised images, at a timestep drawn evenly, and not of the images themselves
    is_noised: bool = False

    def __post_init__(self) -> None:
        if self.gradient_penalty < 0:
            raise ValueError(f"gradient_penalty is {self.gradient_penalty}; accepted: 0 or more")

    @property
    def requires(self) -> Requires:
        return Requires(views=PREDICTIONS, projections=(_shown_to(self.is_noised),))

    @property
    def start(self) -> None:
        return None

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        batch, process, tell = views.batch, views.process, views.of("discriminator")
        made, real = process.clean(batch.states, batch.times, views.student).detach(), batch.images
        times = held_times(views, self.is_noised, draw=2)
        if self.is_noised:
            made = process.noised(made, times, batch.noises[:, 1].flip(0))
            real = process.noised(real, times, batch.noises[:, 1])
        values = softplus(logits_of(tell, made, times, batch.shown)).mean(dim=1)
        real = real.detach().requires_grad_(self.gradient_penalty > 0)
        # the fused attention has no second derivative
        with sdpa_kernel(SDPBackend.MATH) if self.gradient_penalty else nullcontext():
            logits = logits_of(tell, real, times, batch.shown)
        values = values + softplus(-logits).mean(dim=1)
        if self.gradient_penalty:
            (slope,) = torch.autograd.grad(logits.mean(dim=1).sum(), real, create_graph=True)
            values = values + 0.5 * self.gradient_penalty * slope.square().flatten(1).sum(dim=1)
        return all_count(values)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None


def logits_of(
    tell: Predict, states: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], classes: Int[Tensor, "B"]
) -> Float[Tensor, "B N"]:
    """Return a discriminator's logits of each image, one a head."""
    return tell(states, times, classes).float().flatten(1)


def held_times(views: DenoisingViews, is_noised: bool, draw: int = 0) -> Int[Tensor, "B"]:
    """Return the timesteps that a discriminator is told. The first, of hardly any noise, or with noised images some of all."""
    batch = views.batch
    return between(batch.uniform[:, draw], views.process) if is_noised else torch.zeros_like(batch.times)


def _shown_to(is_noised: bool) -> str:
    return NOISED_DISCRIMINATOR if is_noised else DISCRIMINATOR
