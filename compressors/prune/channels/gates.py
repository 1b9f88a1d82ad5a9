"""A net whose channels are let through by gates. Closed ones are what a cut must leave it to compute; slopes by open ones are Taylor scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.prune.channels.channel_map import ChannelMap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Hook = Callable[[nn.Module, tuple[Tensor, ...], Any], Any]


@contextmanager
def gated(model: PreTrainedModel, channels: ChannelMap, gates: Mapping[str, Float[Tensor, "B U"]]) -> Iterator[None]:
    """Let what every convolution and matrix reads through a gate a unit, inside the context. B is of images, or 1 for all alike.

    Norms over channels weigh them by their gates: of a closed channel they know nothing.
    """
    handles: list[Any] = []
    for name, module in model.named_modules():
        read = channels.dims.get(f"{name}.weight", ())
        if name in channels.norms:
            norm = {"layer": _layer_norm, "response": _response_norm}[channels.norms[name]]
            handles.append(module.register_forward_hook(norm(_spread(channels, gates, read[-1]))))
        elif len(read) > 1 and read[1] and isinstance(module, nn.Conv2d | nn.Linear):
            gate, axis = _spread(channels, gates, read[1]), 1 if isinstance(module, nn.Conv2d) else -1
            handles.append(module.register_forward_pre_hook(_reading(gate, axis)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def closed(channels: ChannelMap, units: Mapping[str, Int[Tensor, "K"]], device: torch.device) -> dict[str, Tensor]:
    """Return gates that let the given units through, and no other."""
    gates = {name: torch.zeros(1, space.num_units, device=device) for name, space in channels.spaces.items()}
    for name, stays in units.items():
        gates[name][:, stays.to(device)] = 1.0
    return gates


def gate_slopes(
    model: PreTrainedModel, channels: ChannelMap, pixels: Float[Tensor, "B C H W"], labels: Sequence[int]
) -> dict[str, Float[Tensor, "B U"]]:
    """Return the slope of each image's cross-entropy by a gate on each unit of every space, in nats.

    One backward pass. An image of a label below 0, which is none, counts as of the class that the net puts it into.
    """
    gates = {
        name: torch.ones(len(pixels), space.num_units, device=model.device, requires_grad=True)
        for name, space in channels.spaces.items()
    }
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.enable_grad(), gated(model, channels, gates):
            logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits.float()
            given = torch.tensor(labels, device=logits.device)
            classes = torch.where(given < 0, logits.argmax(dim=-1), given)
            loss = nn.functional.cross_entropy(logits, classes, reduction="sum")
            return dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _spread(channels: ChannelMap, gates: Mapping[str, Tensor], space: str) -> Float[Tensor, "B N"]:
    return gates[space].repeat_interleave(channels.spaces[space].width, dim=-1)


def _along(gate: Float[Tensor, "B N"], states: Tensor, axis: int) -> Tensor:
    """Return a gate in the shape of what it is multiplied with: images first, channels along the axis."""
    shape = [1] * states.ndim
    shape[0], shape[axis] = gate.shape
    return gate.to(states.dtype).reshape(shape)


def _reading(gate: Tensor, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * _along(gate, inputs[0], axis), *inputs[1:])

    return hook


def _layer_norm(gate: Tensor) -> Hook:
    """Return what norms over the channels that are let through: mean and variance are theirs."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        own: Any = module
        axis = 1 if getattr(module, "data_format", "") == "channels_first" else -1
        states = inputs[0].movedim(axis, -1)
        weight = _along(gate, states, -1)
        count = weight.sum(dim=-1, keepdim=True)
        centred = states - (states * weight).sum(dim=-1, keepdim=True) / count
        variance = (centred.square() * weight).sum(dim=-1, keepdim=True) / count
        return ((centred / (variance + own.eps).sqrt()) * own.weight + own.bias).movedim(-1, axis)

    return hook


def _response_norm(gate: Tensor) -> Hook:
    """Return ConvNeXt V2's norm of responses, with a mean over the channels that are let through."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        own: Any = module
        states = inputs[0]
        strength = torch.linalg.vector_norm(states, ord=2, dim=(1, 2), keepdim=True)
        weight = _along(gate, strength, -1)
        mean = (strength * weight).sum(dim=-1, keepdim=True) / weight.sum(dim=-1, keepdim=True)
        return own.weight * (states * (strength / (mean + 1e-6))) + own.bias + states

    return hook
