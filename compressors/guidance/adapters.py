"""Adapters on a frozen causal model. Hung onto its attention by hooks, so that the model's own tensors and names stay what they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attar.compressors.guidance.catalogue import AdapterMethod
from attar.compressors.guidance.encoder import ScaleEncoder
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.exits import ATTENTION_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scale = float | Float[Tensor, "B"]


@dataclass(frozen=True, kw_only=True)
class ScaleRange:
    """The scales that training draws from. `is_base_at_one`: the adapters add nothing at scale 1, whatever they learned."""

    low: float
    high: float
    is_base_at_one: bool = True

    def clamp(self, scale: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return the scales pulled into the trained range; where 1 is the base exactly, the range reaches to 1."""
        if not self.is_base_at_one:
            return scale.clamp(self.low, self.high)
        return scale.clamp(min(1.0, self.low), max(1.0, self.high))

    def gain(self, scale: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return what the adapters' output is multiplied by: w - 1, or 1 in the paper's own form."""
        return scale - 1.0 if self.is_base_at_one else torch.ones_like(scale)


class GuidanceAdapters(nn.Module):
    """An encoder of the scale, and an adapter for each block. Off until a scale is set; then every forward pass is guided."""

    def __init__(self, method: AdapterMethod, scales: ScaleRange, *, hidden_size: int, num_blocks: int) -> None:
        super().__init__()
        self.method, self.scales = method, scales
        self.encoder = ScaleEncoder(method.rank)
        self.blocks = nn.ModuleList(method(hidden_size) for _ in range(num_blocks))
        self._prepared: list[tuple[Tensor, ...]] | None = None
        self._base_dtype = torch.float32

    def set_scale(self, scale: Scale | None) -> None:
        """Guide the passes to come by one scale, or one for each row of the batch; None: the base exactly."""
        self._prepared = None if scale is None else self.prepared(scale)

    def prepared(self, scale: Scale) -> list[tuple[Tensor, ...]]:
        """Return what each block needs at these scales, clamped to what was trained. Without a batch dim for a plain number.

        While learning in float32; else in the base's dtype, since decoding waits for memory.
        """
        given = torch.as_tensor(scale, dtype=torch.float32, device=self.encoder.phases.device)
        clamped = self.scales.clamp(torch.atleast_1d(given))
        features, gain = self.encoder(clamped), self.scales.gain(clamped)
        dtype = torch.float32 if torch.is_grad_enabled() else self._base_dtype
        weights = []
        for block in self.blocks:
            parts = (part.to(dtype) for part in block.prepare(features, gain))  # type: ignore[operator]
            weights.append(tuple(part if isinstance(scale, Tensor) else part[0] for part in parts))
        return weights

    @contextmanager
    def at(self, scale: Scale | None) -> Iterator[None]:
        """Guide the passes inside the block, then be as before."""
        before = self._prepared
        self.set_scale(scale)
        try:
            yield
        finally:
            self._prepared = before

    def attach(self, model: PreTrainedModel) -> list[RemovableHandle]:
        """Let the model's blocks be guided; remove the handles to take the adapters off.

        Raises ValueError for a model of another width or depth, or whose blocks have no attention of a known name.
        """
        modules, self._base_dtype = attention_modules(model), model.dtype
        if len(modules) != len(self.blocks):
            raise ValueError(f"the adapters are for {len(self.blocks)} blocks, the model has {len(modules)}")
        return [module.register_forward_hook(self._hook(i), with_kwargs=True) for i, module in enumerate(modules)]

    def _hook(self, index: int):
        block = self.blocks[index]

        def add(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> Tensor | tuple:
            if self._prepared is None:
                return output
            hidden = args[0] if args else kwargs["hidden_states"]
            attended = output[0] if isinstance(output, tuple) else output
            added = block.apply(hidden, self._prepared[index])  # type: ignore[operator]
            guided = attended + added.to(attended.dtype)
            return (guided, *output[1:]) if isinstance(output, tuple) else guided

        return add


def attention_modules(model: PreTrainedModel) -> Sequence[nn.Module]:
    """Return the attention of each block. Raises ValueError for a family that gives it another name."""
    modules = []
    for block in decoder_blocks(model):
        attention = [getattr(block, name) for name in ATTENTION_NAMES if hasattr(block, name)]
        if not attention:
            raise ValueError(f"{type(model).__name__}: no attention of a known name in its blocks; cannot be guided")
        modules.append(attention[0])
    return modules


def build_adapters(model: PreTrainedModel, method: AdapterMethod, scales: ScaleRange) -> GuidanceAdapters:
    """Return fresh adapters for this model, on its device, not yet attached."""
    sizes = {"hidden_size": model.config.hidden_size, "num_blocks": model.config.num_hidden_layers}
    return GuidanceAdapters(method, scales, **sizes).to(model.device)
