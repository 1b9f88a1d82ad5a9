"""The weights that training moves: taken out, put back, and averaged along the way. Of sharded ones, this process's part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class HasParameters(Protocol):
    """A module, or what stands for one: its parameters are asked for, and no more."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; of another one all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def trained_weights(model: HasParameters, device: torch.device | str | None = None) -> Weights:
    """Return copies of the parameters that are trained, by name, where each lies or on another device."""
    trained = {name: local(p).detach() for name, p in model.named_parameters() if p.requires_grad}
    return {name: p.to(device or p.device, copy=True) for name, p in trained.items()}


def beside(model: HasParameters, weights: Mapping[str, Tensor]) -> Weights:
    """Return weights on the devices of the model's parameters: a checkpoint may come from a machine with another device."""
    parameters = dict(model.named_parameters())
    return {name: value.to(parameters[name].device) for name, value in weights.items()}


@torch.no_grad()
def set_weights(model: HasParameters, weights: Mapping[str, Tensor]) -> None:
    """Put weights of `trained_weights` back."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        local(parameters[name]).copy_(value)


@dataclass
class WeightAverage:
    """Exponential moving average: a <- decay a + (1 - decay) w after every step, from the first weights on.

    `decay` in [0, 1): about 1 / (1 - decay) steps are averaged over. https://arxiv.org/abs/1703.01780
    """

    decay: float
    weights: Weights

    @torch.no_grad()
    def update(self, model: HasParameters) -> None:
        """Take the model's weights of now into the average."""
        parameters = dict(model.named_parameters())
        for name, value in self.weights.items():
            value.lerp_(local(parameters[name]).detach().to(value.dtype), 1.0 - self.decay)
