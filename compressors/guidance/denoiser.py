"""Guidance adapters of a denoiser as published: conditioned on scale, timestep and class, beside each attention of a frozen net."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attar.compressors.diffusion.net import predictor
from attar.compressors.distill.examples.noised import NoisedBatch, scales_between
from attar.compressors.guidance.adapters import ScaleRange
from attar.compressors.guidance.encoder import ScaleEncoder

AdapterKind = Literal["cross", "offset"]


@dataclass(frozen=True, eq=False)
class GuidedAttention:
    """An attention of a net, and the net's own modules whose outputs embed timestep and class there."""

    attention: nn.Module
    time: nn.Module
    label: nn.Module
    # of what the attention reads, and of both embeddings
    width: int
    condition_width: int


@dataclass(frozen=True, kw_only=True)
class ScaleAdapters:
    """What a denoiser's adapters are: their kind, their width inside, and whether scale 1 is the base exactly."""

    adapter: AdapterKind = "cross"
    rank: int = 32
    is_base_at_one: bool = False

    def __call__(self, model: Any, first_block: int) -> Any:
        raise ValueError("adapt.kind is 'guidance', which is for denoisers; accepted for others: the stage guide")

    def built(self, attentions: Sequence[GuidedAttention], low: float, high: float) -> DenoiserAdapters:
        """Return fresh adapters for a net, not yet attached. They add nothing until they have learned."""
        scales = ScaleRange(low=low, high=high, is_base_at_one=self.is_base_at_one)
        made = {"cross": CrossConditionAdapter, "offset": OffsetConditionAdapter}[self.adapter]
        return DenoiserAdapters([made(each.width, each.condition_width, self.rank) for each in attentions], scales)


class DenoiserAdapters(nn.Module):
    """One pass of the frozen base with Adapter(h, w, t, c) added to each attention's output. https://arxiv.org/abs/2503.07274

    The released code differs from the paper in its defaults: the offset's last matrix is not zero at the start, timestep and class
    are left out, and the scale is multiplied by 1000. Here all three are as published, the scale as it is. Off until a scale is set.
    """

    def __init__(self, blocks: Sequence[nn.Module], scales: ScaleRange) -> None:
        super().__init__()
        self.scales, self.blocks = scales, nn.ModuleList(blocks)
        self._now: Float[Tensor, "B"] | None = None
        self._seen: dict[nn.Module, Tensor] = {}

    @contextmanager
    def at(self, scales: Float[Tensor, "B"]) -> Iterator[None]:
        """Guide the passes inside the block, each row by its own scale, clamped to what was trained."""
        self._now = self.scales.clamp(scales)
        try:
            yield
        finally:
            self._now = None
            self._seen.clear()

    def attach(self, attentions: Sequence[GuidedAttention]) -> list[RemovableHandle]:
        """Let the net's attentions be guided. Raises ValueError for a net with another number of them."""
        if len(attentions) != len(self.blocks):
            raise ValueError(f"the adapters are for {len(self.blocks)} attentions, the net has {len(attentions)}")
        embedders = dict.fromkeys(module for each in attentions for module in (each.time, each.label))
        handles = [module.register_forward_hook(self._keep) for module in embedders]
        for each, block in zip(attentions, self.blocks, strict=True):
            handles.append(each.attention.register_forward_hook(self._beside(each, block), with_kwargs=True))
        return handles

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._now is not None:
            self._seen[module] = output

    def _beside(self, each: GuidedAttention, block: nn.Module) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
            if self._now is None:
                return output
            hidden = args[0] if args else kwargs["hidden_states"]
            gain = self.scales.gain(self._now)[:, None, None]
            added = gain * block(_tokens(hidden), self._now, self._seen[each.time], self._seen[each.label])
            return output + _like(added, hidden)

        return add


class CrossConditionAdapter(nn.Module):
    """W_o softmax((W_q h)(W_k E)' / sqrt(r)) (W_v E), E = [s(w); W_t TEmb(t); W_y YEmb(y)] with sinusoidal positions, one head."""

    positions: Tensor

    def __init__(self, width: int, condition_width: int, rank: int) -> None:
        super().__init__()
        self.scale = ScaleEncoder(rank)
        self.time, self.label = nn.Linear(condition_width, rank), nn.Linear(condition_width, rank)
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

    def __init__(self, width: int, condition_width: int, rank: int) -> None:
        super().__init__()
        self.scale = ScaleEncoder(rank)
        self.time, self.label = nn.Linear(condition_width, rank), nn.Linear(condition_width, rank)
        self.inner, self.norm, self.output = nn.Linear(rank, rank), nn.LayerNorm(rank), nn.Linear(rank, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, scale: Tensor, time: Tensor, label: Tensor) -> Float[Tensor, "B 1 W"]:
        """Return what is added to every token."""
        condition = self.scale(scale) + self.time(time) + self.label(label)
        return self.output(self.norm(self.inner(condition).relu()))[:, None]


class GuidedDenoiser(nn.Module):
    """A frozen net with guidance adapters, as the training loop sees it. Each image of a batch has the scale that was drawn for it."""

    reads: tuple[str, ...] = ()
    # no other net learns beside it
    critic: nn.Module | None = None
    discriminator: nn.Module | None = None

    def __init__(self, net: nn.Module, attentions: Sequence[GuidedAttention], adapters: DenoiserAdapters) -> None:
        super().__init__()
        self.model, self.guidance = net.requires_grad_(False), adapters
        adapters.attach(attentions)

    def forward(self, batch: NoisedBatch) -> Float[Tensor, "B C H W"]:
        """Return what one pass with the adapters predicts at the batch's states."""
        device, scales = next(self.guidance.parameters()).device, self.guidance.scales
        with self.guidance.at(scales_between(batch.uniform, scales.low, scales.high).to(device)):
            return predictor(self.model)(batch.states.to(device), batch.times.to(device), batch.shown.to(device))

    def outputs(self, batch: NoisedBatch, weights: Mapping[str, Tensor] | None = None) -> Any:
        raise TypeError("guidance adapters are no teacher: what they learn is what two passes of their base say")


def _tokens(hidden: Tensor) -> Float[Tensor, "B N W"]:
    """Return what an attention reads as tokens: a convolutional net gives it images."""
    return hidden if hidden.ndim == 3 else hidden.flatten(2).transpose(1, 2)


def _like(added: Float[Tensor, "B #N W"], hidden: Tensor) -> Tensor:
    """Return what is added in the form of what the attention reads."""
    if hidden.ndim == 3:
        return added
    columns = added.transpose(1, 2)
    return columns[..., None] if columns.shape[-1] == 1 else columns.unflatten(2, hidden.shape[2:])
