"""Denoisers of Gaussians that are exact, and the views that a loss reads of them: what laws are checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import Draws, NoisedBatch
from attar.compressors.distill.losses.denoising.scores import PureNoise
from attar.compressors.distill.losses.denoising.views import DenoisingViews

NUM_TIMESTEPS = 200
PIXEL = (1, 1, 1)


def process(prediction: Any = "v_prediction", **options: Any) -> NoiseProcess:
    """Return a process whose last state is noise alone, but for epsilon, which could say nothing of it."""
    angles = torch.linspace(0.02, 1.5 if prediction == "epsilon" else torch.pi / 2, NUM_TIMESTEPS)
    alpha_bar = angles.cos().square()
    if prediction != "epsilon":
        alpha_bar[-1] = 0.0
    return NoiseProcess.of(alpha_bar, prediction, options.pop("spacing", "trailing"), **options)


def batch(start: Any, of: NoiseProcess, images: Tensor, seed: int = 0) -> NoisedBatch:
    generator = torch.Generator().manual_seed(seed)
    noises = torch.randn(len(images), 2, *images.shape[1:], generator=generator)
    uniform = torch.rand(len(images), 4, generator=generator)
    labels = torch.zeros(len(images), dtype=torch.long)
    states, times, shown = start.states(of, Draws(images, labels, noises, uniform))
    return NoisedBatch(images, states, times, shown, noises, uniform, ())


def gaussian(of: NoiseProcess, mean: Tensor | float, deviation: Tensor | float) -> Callable[..., Tensor]:
    """Return the exact v at noised draws of N(mean, deviation^2): what a perfect denoiser predicts."""

    def predict(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        alpha, sigma = of.alpha[times][:, None, None, None], of.sigma[times][:, None, None, None]
        variance = alpha**2 * deviation**2 + sigma**2
        image = mean + alpha * deviation**2 / variance * (states - alpha * mean)
        noise = sigma * (states - alpha * mean) / variance
        return alpha * noise - sigma * image

    return predict


def generator_views(
    of: NoiseProcess, images: Tensor, teacher: Any = None, critic: Any = None, seed: int = 0, **others: Any
) -> DenoisingViews:
    """Return views of a generator whose images of noise z are `images`: of pure noise, v is their negative.

    `real`: the data's images, else none but zeros; `discriminator` as the views take it.
    """
    real = others.pop("real", torch.zeros(len(images), *PIXEL))
    read = batch(PureNoise(), of, real, seed)
    return DenoisingViews(-images, read, of, 1, teacher=teacher, critic=critic, **others)
