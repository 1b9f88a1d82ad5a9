"""A small diffusion transformer for 8 x 8 images: what guidance is distilled into."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

SIDE = 8
PATCH = 2
NUM_CLASSES = 10
# The class that means "any": what the unguided branch is given
ANY_CLASS = NUM_CLASSES


class DiffusionTransformer(nn.Module):
    """Predicts the noise in x_t from x_t, t and a class: patches as tokens, blocks modulated by t and class. https://arxiv.org/abs/2212.09748"""

    def __init__(self, width: int = 48, num_blocks: int = 3, num_heads: int = 4) -> None:
        super().__init__()
        num_tokens, num_pixels = (SIDE // PATCH) ** 2, PATCH * PATCH
        self.width = width
        self.entry = nn.Linear(num_pixels, width)
        self.places = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.times = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(NUM_CLASSES + 1, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, num_heads) for _ in range(num_blocks))
        self.modulation = _zeroed(nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.exit = _zeroed(nn.Linear(width, num_pixels))

    def forward(
        self, states: Float[Tensor, "B P"], timesteps: Int[Tensor, "B"], classes: Int[Tensor, "B"]
    ) -> Float[Tensor, "B P"]:
        """Return the predicted noise, flat as the states are."""
        condition = nn.functional.silu(self.time_embedding(timesteps) + self.class_embedding(classes))
        tokens = self.entry(_to_patches(states)) + self.places
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return _to_pixels(self.exit(self.norm(tokens) * (1.0 + scale) + shift))

    def time_embedding(self, timesteps: Int[Tensor, "B"]) -> Float[Tensor, "B W"]:
        """Return the embedding of each timestep."""
        half = self.width // 2
        frequencies = torch.exp(-math.log(1e4) * torch.arange(half) / half)
        angles = timesteps[:, None].float() * frequencies
        return self.times(torch.cat([angles.cos(), angles.sin()], dim=-1))

    def class_embedding(self, classes: Int[Tensor, "B"]) -> Float[Tensor, "B W"]:
        """Return the embedding of each class."""
        return self.classes(classes)


class ModulatedBlock(nn.Module):
    """A transformer block modulated by its condition. x + g_1 attention(m_1(norm x)), then x + g_2 mlp(m_2(norm x)); g and m begin at 0."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = _zeroed(nn.Linear(width, 6 * width))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = SelfAttention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "B N W"], condition: Float[Tensor, "B W"]) -> Float[Tensor, "B N W"]:
        """Return the tokens behind the block."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        tokens = tokens + gate_1 * self.attention(self.norms[0](tokens) * (1.0 + scale_1) + shift_1)
        return tokens + gate_2 * self.mlp(self.norms[1](tokens) * (1.0 + scale_2) + shift_2)


class SelfAttention(nn.Module):
    """Attention among the patches."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.entry, self.exit = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N W"]) -> Float[Tensor, "B N W"]:
        """Return what each token gathers."""
        parts = self.entry(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        gathered = nn.functional.scaled_dot_product_attention(*parts)
        return self.exit(gathered.transpose(1, 2).flatten(2))


def _to_patches(states: Float[Tensor, "B P"]) -> Float[Tensor, "B N Q"]:
    count = SIDE // PATCH
    return states.view(-1, count, PATCH, count, PATCH).transpose(2, 3).flatten(3).flatten(1, 2)


def _to_pixels(patches: Float[Tensor, "B N Q"]) -> Float[Tensor, "B P"]:
    count = SIDE // PATCH
    return patches.view(-1, count, count, PATCH, PATCH).transpose(2, 3).flatten(1)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
