"""Noise schedule and deterministic sampler of a discrete-time diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, abar the running product of 1 - beta, beta rising linearly.

    https://arxiv.org/abs/2006.11239. The last beta is high enough that x of the last timestep is noise for so few timesteps.
    """

    num_timesteps: int = 100
    first_beta: float = 1e-3
    last_beta: float = 0.2

    @cached_property
    def alpha_bar(self) -> Float[Tensor, "T"]:
        """Share of the image's variance left at each timestep, falling from about 1 to about 0."""
        return (1.0 - torch.linspace(self.first_beta, self.last_beta, self.num_timesteps)).cumprod(dim=0)

    def noised(
        self, images: Float[Tensor, "B P"], timesteps: Int[Tensor, "B"], noise: Float[Tensor, "B P"]
    ) -> Float[Tensor, "B P"]:
        """Return x_t of each image."""
        share = self.alpha_bar[timesteps][:, None]
        return share.sqrt() * images + (1.0 - share).sqrt() * noise

    def sampling_times(self, num_steps: int) -> list[int]:
        """Return the timesteps of a sampler of `num_steps`, from the last timestep down to 0."""
        return torch.linspace(self.num_timesteps - 1, 0, num_steps).round().long().tolist()

    def ddim_step(
        self, states: Float[Tensor, "B P"], noise: Float[Tensor, "B P"], timestep: int, earlier: int | None
    ) -> Float[Tensor, "B P"]:
        """Return the states at the earlier timestep; None: the image itself. https://arxiv.org/abs/2010.02502"""
        share = self.alpha_bar[timestep]
        image = (states - (1.0 - share).sqrt() * noise) / share.sqrt()
        if earlier is None:
            return image
        share = self.alpha_bar[earlier]
        return share.sqrt() * image + (1.0 - share).sqrt() * noise
