"""Build the narrower net that a family's config describes, and fill it with what stays of every tensor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.prune.channels.channel_map import ChannelMap, Counts
from attar.compressors.prune.width.scores import highest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_units(
    channels: ChannelMap, values: Counts, scores: Mapping[str, Float[Tensor, "U"]]
) -> dict[str, Int[Tensor, "K"]]:
    """Return the units that stay of each space, those of highest score, ascending."""
    return {name: highest(scores[name], count) for name, count in channels.counts(values).items()}


@torch.no_grad()
def narrowed(
    model: PreTrainedModel, channels: ChannelMap, values: Counts, units: Mapping[str, Int[Tensor, "K"]]
) -> PreTrainedModel:
    """Return a net of the same family with these units alone, made from a config that says so.

    Raises ValueError where the net that the config describes has other tensors than are left.
    """
    from transformers import AutoModelForImageClassification  # there since the model is

    config = copy.deepcopy(model.config)
    channels.tell(config, values)
    left = {name: _left(tensor, channels, name, units) for name, tensor in model.state_dict().items()}
    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        narrower = AutoModelForImageClassification.from_config(config, dtype=model.dtype)
    wanted = {name: tuple(tensor.shape) for name, tensor in narrower.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in left.items()}
    if wanted != given:
        name = min(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ValueError(
            f"{type(model).__name__}: its config cannot say what is left: {name} would be {wanted.get(name, 'missing')}, "
            f"not {given.get(name, 'missing')}"
        )
    narrower.load_state_dict(left)
    return narrower.to(model.device).eval()  # type: ignore[arg-type] - a device, which its stub leaves out


def _left(tensor: Tensor, channels: ChannelMap, name: str, units: Mapping[str, Tensor]) -> Tensor:
    for axis, space in enumerate(channels.dims.get(name, ()) if tensor.ndim else ()):
        if space:
            tensor = tensor.index_select(axis, channels.spaces[space].channels(units[space]).to(tensor.device))
    return tensor.contiguous()
