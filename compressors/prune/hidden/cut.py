"""Take channels out of the residual stream: embedding, head, norms and every matrix that reads it or adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.skeleton import put_tensors, stored_tensors
from attar.compressors.prune.hidden.stream import config_changes, stream_of, stream_readings, stream_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What modules note of the width when they are built.
NOTED = ("in_features", "out_features", "embedding_dim", "hidden_size", "hidden_dim", "embed_dim")


@dataclass(frozen=True)
class KeptChannels:
    """The channels of the stream that stay, ascending, and a factor for the output of every norm, the head's last.

    `rotation`: the channels are those of the stream times this orthogonal matrix; None: of the stream as it is.
    """

    indices: Int[Tensor, "K"]
    factors: Float[Tensor, "N"]
    rotation: Float[Tensor, "D D"] | None = None

    def of(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... K"]:
        """Return what the cut stream holds of a whole model's states."""
        if self.rotation is None:
            return states[..., self.indices.to(states.device)]
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        return (wide @ self.rotation[:, self.indices].to(wide)).to(states.dtype)

    @property
    def rotated(self) -> KeptChannels:
        """The same channels of a model whose stream is rotated already."""
        return replace(self, rotation=None)


@contextmanager
def fewer_channels(model: PreTrainedModel, channels: KeptChannels) -> Iterator[None]:
    """Let every norm read the kept channels alone, inside, as if the others were zero. A cut must leave the model to compute that."""
    width, readings = stream_width(model), stream_readings(model)
    if channels.rotation is None:
        mask = torch.zeros(width, device=model.device)
        mask[channels.indices] = 1.0
    else:
        directions = channels.rotation[:, channels.indices].to(
            model.device, torch.promote_types(model.dtype, torch.float32)
        )
    # scaled, the mean square over all channels is that over the kept ones: eps, which the norm adds to it, then weighs the same
    scale = (width / len(channels.indices)) ** 0.5

    def enter(module: nn.Module, args: tuple) -> tuple:
        state = args[0]
        if channels.rotation is None:
            return (state * (mask * scale).to(state.dtype), *args[1:])
        projected = state.to(directions.dtype) @ directions @ directions.T
        return ((projected * scale).to(state.dtype), *args[1:])

    hooks = []
    for reading, factor in zip(readings, channels.factors.tolist(), strict=True):
        hooks.append(reading.norm.register_forward_pre_hook(enter))
        hooks.append(reading.norm.register_forward_hook(lambda module, args, output, factor=factor: output * factor))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def cut_hidden(model: PreTrainedModel, channels: KeptChannels) -> None:
    """Keep these channels of the stream, in place. The result computes what the whole model does with the others at zero.

    A norm divides by the root mean square of the channels that are left, so its weight is multiplied by the root of the share that is
    left, and by the factor of the norm. Raises ValueError, before anything is changed, where the config cannot say the width.
    """
    assert channels.rotation is None, "rotate the stream first"
    stream = stream_of(model, len(channels.indices))
    scale = (stream.width / len(channels.indices)) ** 0.5
    for reading, factor in zip(stream.readings, channels.factors.tolist(), strict=True):
        weight: Tensor = reading.norm.weight  # type: ignore[assignment]
        weight.copy_(weight.to(torch.promote_types(weight.dtype, torch.float32)) * (scale * factor))
    cut: dict[int, nn.Parameter] = {}
    for tensor in stored_tensors(model).values():
        rest = tensor.detach()
        for dim in stream.sized.get(id(tensor), ()):
            rest = rest.index_select(dim, channels.indices.to(tensor.device))
        if rest.shape != tensor.shape and id(tensor) not in cut:  # a tied one once
            cut[id(tensor)] = nn.Parameter(rest.contiguous(), requires_grad=tensor.requires_grad)
    put_tensors(model, stream.skeleton, cut, NOTED)
    for name, value in config_changes(model.config, len(channels.indices)).items():
        setattr(model.config, name, value)
