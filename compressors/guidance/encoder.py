"""The guidance scale as features that a small network can read."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ScaleEncoder(nn.Module):
    """Encode a scale by random Fourier features. LayerNorm(MLP(cos(2 pi (f x + p)))), fixed f ~ N(0, 1), p ~ U(0, 1), MLP r -> 4r -> r. https://arxiv.org/abs/2503.07274

    The scale goes in as it is: multiplied by 1000, as the released code does, frequencies of N(0, 1) make a hash of it, and a scale
    between two trained ones means nothing.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(rank))
        self.register_buffer("phases", torch.rand(rank))
        self.mlp = nn.Sequential(nn.Linear(rank, 4 * rank), nn.ReLU(), nn.Linear(4 * rank, rank))
        self.norm = nn.LayerNorm(rank)
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2.0))  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, scale: Float[Tensor, "B"]) -> Float[Tensor, "B R"]:
        """Return the features of each scale."""
        angles = 2.0 * math.pi * (scale[:, None] * self.frequencies + self.phases)
        return self.norm(self.mlp(angles.cos()))
