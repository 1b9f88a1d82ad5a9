"""A denoiser as training runs it, student or teacher. Beside a student may stand nets that learn what its images are like."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.diffusion.net import Predict, predictor
from attar.compressors.distill.examples.noised import NoisedBatch

# The name of the student's net among its weights, and of those beside it, which are of no use behind the training.
NET = "model."
BESIDE = ("critic.", "discriminator.")


@dataclass(frozen=True)
class Denoises:
    """A denoiser's outputs as a teacher: what it predicts anywhere, without gradient, asked for by a loss."""

    predict: Predict
    states: Mapping[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        return self.predict(states, times, classes)


class DenoiserStudent(nn.Module):
    """A net under training. Beside it may stand others that learn with the same optimizer.

    `critic` denoises the student's images and begins as a copy of what is given; `discriminator` tells them from real ones.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, net: nn.Module, critic: nn.Module | None = None, discriminator: nn.Module | None = None) -> None:
        super().__init__()
        self.model = net
        self.critic = None if critic is None else copy.deepcopy(critic).requires_grad_(True)
        self.discriminator = discriminator

    def forward(self, batch: NoisedBatch) -> Float[Tensor, "B C H W"]:
        """Return what the net predicts at the batch's states."""
        device = next(self.model.parameters()).device
        return predictor(self.model)(batch.states.to(device), batch.times.to(device), batch.shown.to(device))

    def outputs(self, batch: NoisedBatch, weights: Mapping[str, Tensor] | None = None) -> Denoises:
        """Return the net of now as a teacher's outputs; with `weights` by those, which stay apart from what is trained."""
        own = {name.removeprefix(NET): value for name, value in (weights or {}).items() if name.startswith(NET)}
        return Denoises(predictor(self.model, own))
