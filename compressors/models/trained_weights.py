"""The weights that training moves: taken out, put back, and averaged along the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def trained_weights(model: nn.Module) -> Weights:
    """Return copies of the parameters that are trained, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights of `trained_weights` back."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


@dataclass
class WeightAverage:
    """Exponential moving average: a <- decay a + (1 - decay) w after every step, from the first weights on.

    `decay` in [0, 1): about 1 / (1 - decay) steps are averaged over. https://arxiv.org/abs/1703.01780
    """

    decay: float
    weights: Weights

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights of now into the average."""
        parameters = dict(model.named_parameters())
        for name, value in self.weights.items():
            value.lerp_(parameters[name].detach().to(value.dtype), 1.0 - self.decay)
