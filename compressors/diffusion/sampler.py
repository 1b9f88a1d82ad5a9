"""Draw images from a denoiser by the deterministic sampler, its steps and forwards counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.diffusion.net import Predict
from attar.compressors.diffusion.process import NoiseProcess


@dataclass
class Counted:
    """A predictor that counts how often it is asked."""

    predict: Predict
    num_forwards: int = field(default=0, init=False)

    def __call__(self, states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        self.num_forwards += 1
        return self.predict(states, times, classes)


@torch.no_grad()
def sampled(
    predict: Predict,
    process: NoiseProcess,
    noise: Float[Tensor, "B C H W"],
    classes: Int[Tensor, "B"],
    num_steps: int,
) -> Float[Tensor, "B C H W"]:
    """Return the images that the noise becomes in so many steps, in [-1, 1]. https://arxiv.org/abs/2010.02502"""
    return unrolled(predict, process, noise, classes, num_steps).clamp(-1.0, 1.0)


def unrolled(
    predict: Predict, process: NoiseProcess, noise: Tensor, classes: Tensor, num_steps: int
) -> Float[Tensor, "B C H W"]:
    """Return the end of the sampler's path, not clamped; what a graph of the whole sampler traces."""
    states = noise
    for time, later in process.steps(num_steps):
        # made of the noise, so that a tracer knows their number as the noise's
        times = torch.zeros_like(classes) + time
        states = process.moved(states, times, predict(states, times, classes), torch.zeros_like(classes) + later)
    return states
