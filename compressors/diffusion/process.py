"""How a denoiser's images are noised, what its net predicts of them, and how a prediction moves a state along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

# diffusers' words for what a net predicts.
Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
Spacing = Literal["trailing", "leading"]
SPACINGS: tuple[Spacing, ...] = ("trailing", "leading")
# The timestep of the image itself: the entry behind the last one of both tables.
CLEAN = -1


@dataclass(frozen=True)
class NoiseProcess:
    """x_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1. https://arxiv.org/abs/2006.11239

    `alpha` and `sigma`: one entry a timestep and a last one, (1, 0), for the image itself. What the net predicts: eps (`epsilon`),
    v = alpha eps - sigma x_0 (`v_prediction`, https://arxiv.org/abs/2202.00512) or x_0 (`sample`).
    """

    alpha: Float[Tensor, "T+1"]
    prediction: Prediction = "v_prediction"
    spacing: Spacing = "trailing"
    # the images that moves go by are cut to [-clip, clip]; 0: they are not
    clip: float = 0.0

    @staticmethod
    def of(alpha_bar: Float[Tensor, "T"], prediction: Prediction, spacing: Spacing, clip: float = 0.0) -> NoiseProcess:
        """Return the process whose share of the image's variance at each timestep is `alpha_bar`."""
        return NoiseProcess(torch.cat([alpha_bar.double().sqrt().float(), torch.ones(1)]), prediction, spacing, clip)

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the training, the image itself not counted."""
        return len(self.alpha) - 1

    @property
    def sigma(self) -> Float[Tensor, "T+1"]:
        """Share of the noise in a state at each timestep."""
        return (1.0 - self.alpha.double().square()).clamp(min=0.0).sqrt().float()

    def noised(
        self, images: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], noise: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return x_t of each image."""
        alpha, sigma = self._at(times)
        return alpha * images + sigma * noise

    def target(
        self, images: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], noise: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return what a net should predict of images that this noise was added to."""
        alpha, sigma = self._at(times)
        return {"epsilon": noise, "v_prediction": alpha * noise - sigma * images, "sample": images}[self.prediction]

    def clean(
        self, states: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], predicted: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the images that a prediction points to."""
        alpha, sigma = self._at(times)
        if self.prediction == "epsilon":
            return (states - sigma * predicted) / alpha
        return alpha * states - sigma * predicted if self.prediction == "v_prediction" else predicted

    def moved(
        self,
        states: Float[Tensor, "B C H W"],
        times: Int[Tensor, "B"],
        predicted: Float[Tensor, "B C H W"],
        later: Int[Tensor, "B"],
    ) -> Float[Tensor, "B C H W"]:
        """Return the states at the timesteps `later`, nearer to the image: x_s = alpha_s x_0 + sigma_s eps. https://arxiv.org/abs/2010.02502"""
        images = self.clean(states, times, predicted)
        images = images.clamp(-self.clip, self.clip) if self.clip else images
        alpha, sigma = self._at(later)
        return alpha * images + sigma * self._noise(states, times, predicted)

    def gain(self, times: Int[Tensor, "B"], later: Int[Tensor, "B"]) -> Float[Tensor, "B 1 1 1"]:
        """Return how far a move's end goes with the predicted v: alpha_s sigma_t - sigma_s alpha_t, in (0, 1]."""
        (alpha, sigma), (later_alpha, later_sigma) = self._at(times), self._at(later)
        return later_alpha * sigma - later_sigma * alpha

    def steps(self, num_steps: int) -> list[tuple[int, int]]:
        """Return (timestep, the one that its move ends at) of each of a sampler's steps, as diffusers' DDIM takes them.

        Raises ValueError for a number of steps that does not divide the timesteps: its moves would not meet.
        """
        stride, rest = divmod(self.num_timesteps, num_steps)
        if rest or num_steps < 1:
            raise ValueError(
                f"num_steps is {num_steps}, which does not divide the {self.num_timesteps} timesteps of the scheduler; accepted: "
                f"{', '.join(map(str, _divisors(self.num_timesteps)))}"
            )
        first = self.num_timesteps - 1 if self.spacing == "trailing" else self.num_timesteps - stride
        times = range(first, -1, -stride)
        return [(time, time - stride if time >= stride else CLEAN) for time in times]

    def _noise(self, states: Tensor, times: Tensor, predicted: Tensor) -> Tensor:
        alpha, sigma = self._at(times)
        if self.prediction == "epsilon":
            return predicted
        if self.prediction == "v_prediction":
            return sigma * states + alpha * predicted
        return (states - alpha * predicted) / sigma

    def _at(self, times: Int[Tensor, "B"]) -> tuple[Tensor, Tensor]:
        return tuple(table.to(times.device)[times][:, None, None, None] for table in (self.alpha, self.sigma))  # type: ignore[return-value]


def _divisors(number: int) -> list[int]:
    """Return the divisors up to 100: no sampler takes more steps."""
    return [count for count in range(1, 101) if number % count == 0]
