"""A discriminator on what a frozen denoiser makes of an image inside: a small head on each of its blocks."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.diffusion.net import position_rows

# Channels between the two layers of a head.
HEAD_WIDTH = 64
# How much faster a head's logit moves than its weights say: it must keep ahead of a student that one learning rate serves too.
# https://arxiv.org/abs/1710.10196
HEAD_GAIN = 30.0


class FeatureDiscriminator(nn.Module):
    """Heads on the frozen features of a copy of a denoiser, each a logit an image. Projected GAN, https://arxiv.org/abs/2111.01007

    With features that stay, a head has only to tell sets apart that are apart already: it does so after a few steps. It is told
    timestep and class as the denoiser is.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.body = copy.deepcopy(net).requires_grad_(False)
        self._features: list[Tensor] = []
        for block in _blocks(self.body):
            block.register_forward_hook(lambda module, inputs, output: self._features.append(position_rows(output)))
        device = next(net.parameters()).device
        number = torch.zeros(1, dtype=torch.long, device=device)
        with torch.no_grad():
            widths = [rows.shape[-1] for rows in self._read(torch.zeros(1, *shape, device=device), number, number)]
        self.heads = nn.ModuleList(_head(width) for width in widths).to(device)

    def forward(
        self, states: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], classes: Int[Tensor, "B"]
    ) -> Float[Tensor, "B N"]:
        """Return a logit a head of each image: above 0 for what looks real."""
        features = self._read(states, times, classes)
        logits = [
            HEAD_GAIN * head(rows.float()).mean(dim=(1, 2)) for head, rows in zip(self.heads, features, strict=True)
        ]
        return torch.stack(logits, dim=1)

    def _read(self, states: Tensor, times: Tensor, classes: Tensor) -> list[Tensor]:
        self._features.clear()
        self.body(states, times, class_labels=classes, return_dict=False)
        features = list(self._features)
        self._features.clear()
        return features


def _blocks(net: nn.Module) -> list[nn.Module]:
    """Return the blocks of a net of diffusers' form: the members of its lists, and the one between down and up."""
    listed = [block for child in net.children() if isinstance(child, nn.ModuleList) for block in child]
    middle = getattr(net, "mid_block", None)
    return listed if middle is None else [*listed, middle]


def _head(width: int) -> nn.Module:
    norm, last = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(HEAD_WIDTH, 1)
    nn.init.zeros_(last.weight)  # it knows nothing at first
    nn.init.zeros_(last.bias)
    return nn.Sequential(norm, nn.Linear(width, HEAD_WIDTH), nn.SiLU(), last)
