"""Guidance adapters of a denoiser as published: conditioned on scale, timestep and class, beside each block's attention."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.denoise.transformer import DiffusionTransformer
from attar.compressors.guidance.adapters import ScaleRange
from attar.compressors.guidance.encoder import ScaleEncoder

AdapterKind = Literal["cross", "offset"]


class DenoiserAdapters(nn.Module):
    """One pass of the frozen base with Adapter(h, w, t, c) added to each attention's output. https://arxiv.org/abs/2503.07274

    The released code differs from the paper in its defaults: the offset's last matrix is not zero at the start, timestep and class
    are left out, and the scale is multiplied by 1000. Here all three are as published, the scale as it is.
    """

    def __init__(self, base: DiffusionTransformer, kind: AdapterKind, rank: int, scales: ScaleRange) -> None:
        super().__init__()
        self.scales = scales
        self._base = [base]  # in a list: the base is no part of what is trained or saved
        made = {"cross": CrossConditionAdapter, "offset": OffsetConditionAdapter}[kind]
        self.blocks = nn.ModuleList(made(base.width, rank) for _ in base.blocks)

    def forward(self, states: Tensor, timesteps: Tensor, classes: Tensor, scales: Tensor) -> Float[Tensor, "B P"]:
        """Return the noise that guidance at these scales would predict."""
        base = self._base[0]
        clamped = self.scales.clamp(scales)
        gain = self.scales.gain(clamped)[:, None, None]
        condition = clamped, base.time_embedding(timesteps), base.class_embedding(classes)

        def beside(adapter: nn.Module):
            return lambda module, args, output: output + gain * adapter(args[0], *condition)

        handles = [
            block.attention.register_forward_hook(beside(adapter))  # type: ignore[union-attr]
            for block, adapter in zip(base.blocks, self.blocks, strict=True)
        ]
        try:
            return base(states, timesteps, classes)
        finally:
            for handle in handles:
                handle.remove()


class CrossConditionAdapter(nn.Module):
    """W_o softmax((W_q h)(W_k E)' / sqrt(r)) (W_v E), E = [s(w); W_t TEmb(t); W_y YEmb(y)] with sinusoidal positions, one head."""

    positions: Tensor

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.scale, self.time, self.label = ScaleEncoder(rank), nn.Linear(width, rank), nn.Linear(width, rank)
        self.query = nn.Linear(width, rank, bias=False)
        self.key, self.value = nn.Linear(rank, rank, bias=False), nn.Linear(rank, rank, bias=False)
        self.output = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.output.weight)
        angles = torch.arange(3)[:, None] * torch.exp(-torch.arange(0, rank, 2) / rank * 9.21)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1)[:, :rank])

    def forward(self, hidden: Tensor, scale: Tensor, time: Tensor, label: Tensor) -> Float[Tensor, "B N W"]:
        """Return what is added to each token."""
        entries = torch.stack([self.scale(scale), self.time(time), self.label(label)], dim=1) + self.positions
        scores = self.query(hidden) @ self.key(entries).transpose(1, 2) * hidden.new_tensor(entries.shape[-1]) ** -0.5
        return self.output(scores.softmax(dim=-1) @ self.value(entries))


class OffsetConditionAdapter(nn.Module):
    """Linear(LayerNorm(ReLU(Linear(s(w) + W_t TEmb(t) + W_y YEmb(y))))), the same for every token."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.scale, self.time, self.label = ScaleEncoder(rank), nn.Linear(width, rank), nn.Linear(width, rank)
        self.inner, self.norm, self.output = nn.Linear(rank, rank), nn.LayerNorm(rank), nn.Linear(rank, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, scale: Tensor, time: Tensor, label: Tensor) -> Float[Tensor, "B 1 W"]:
        """Return what is added to every token."""
        condition = self.scale(scale) + self.time(time) + self.label(label)
        return self.output(self.norm(self.inner(condition).relu()))[:, None]
