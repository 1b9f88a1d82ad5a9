"""Put what matters most first. The first of each then are a better start for what has no more; what the whole computes stays.

Rewiring by importance, as DynaBERT does it for heads and channels: https://arxiv.org/abs/2004.04037. Importance is told by the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.elastic.space import Subnet
from attar.compressors.elastic.supernet import Supernet, head_dim, named_tensors

# Of one tensor, by its name, the dimensions that follow a size.
Dims = Mapping[str, Sequence[int]]


@torch.no_grad()
def put_first(supernet: Supernet, axes: Sequence[str]) -> None:
    """Put the most important first along some of the axes width, heads and channels, in place.

    Heads and channels change nothing outside of their block. Width reorders the numbers of what comes out: vectors of texts are then those of
    before in another order.
    """
    whole, tensors = supernet.whole, named_tensors(supernet.model)
    narrower = replace(whole, width=whole.width - whole.heads)
    if narrower.width < 1:  # heads of a single number
        axes = [axis for axis in axes if axis == "channels"]
    if "channels" in axes and whole.channels > 1:
        dims = _following(supernet, replace(whole, channels=whole.channels - 1))
        for names in _by_block(supernet, dims):
            _reorder(tensors, names, _product(tensors, names, whole.channels))
    if "heads" in axes and not _heads_are_shared(supernet, narrower):
        heads = {name: [dim] for name, tensor in tensors.items() if tensor.ndim and (dim := head_dim(name)) is not None}
        for names in _by_block(supernet, heads):
            _reorder(tensors, names, _product(tensors, names, whole.heads))
    if "width" in axes:
        dims = _following(supernet, narrower)
        own = {name: [dim for dim in some if dim != head_dim(name)] for name, some in dims.items()}
        _reorder(tensors, own, _sum(tensors, own, whole.width))


def _following(supernet: Supernet, smaller: Subnet) -> dict[str, list[int]]:
    """Return the dimensions that are shorter in a model of a smaller size."""
    shapes = {name: tensor.shape for name, tensor in named_tensors(supernet.skeleton(smaller)).items()}
    return {
        name: [dim for dim, size in enumerate(tensor.shape) if shapes[name][dim] < size]
        for name, tensor in named_tensors(supernet.model).items()
    }


def _by_block(supernet: Supernet, dims: Dims) -> list[dict[str, Sequence[int]]]:
    blocks = [f"{supernet.prefix}{index}." for index in range(supernet.whole.blocks)]
    return [{name: some for name, some in dims.items() if name.startswith(block) and some} for block in blocks]


def _heads_are_shared(supernet: Supernet, narrower: Subnet) -> bool:
    """Say whether something outside of the blocks has a piece a head, as MPNet's bias by distance does. Their order is then the model's."""
    single = replace(supernet.whole, width=supernet.whole.head_width, heads=1)
    by_head, by_width = _following(supernet, single), _following(supernet, narrower)
    return any(set(by_head[name]) - set(by_width[name]) for name in by_head if not name.startswith(supernet.prefix))


def _product(tensors: Mapping[str, Tensor], dims: Dims, count: int) -> Float[Tensor, "U"]:
    """Return the norm of what makes each unit, times that of what reads it."""
    makes, reads = torch.zeros(count), torch.zeros(count)
    for name, some in dims.items():
        squared = _squared(tensors[name], some[0], count)
        if some[0] == 0:
            makes += squared
        else:
            reads += squared
    return makes.sqrt() * reads.sqrt()


def _sum(tensors: Mapping[str, Tensor], dims: Dims, count: int) -> Float[Tensor, "U"]:
    """Return the squared norm of each unit over all tensors, each of which counts alike however large its numbers are."""
    total = torch.zeros(count)
    for name, some in dims.items():
        for dim in some:
            squared = _squared(tensors[name], dim, count)
            total += squared / squared.mean().clamp(min=1e-12)
    return total


def _squared(tensor: Tensor, dim: int, count: int) -> Float[Tensor, "U"]:
    parts = tensor.detach().float().movedim(dim, 0).reshape(count, -1)
    return parts.square().sum(dim=1).cpu()


def _reorder(tensors: Mapping[str, Tensor], dims: Dims, importance: Float[Tensor, "U"]) -> None:
    order: Int[Tensor, "U"] = importance.argsort(descending=True, stable=True)
    for name, some in dims.items():
        tensor = tensors[name]
        for dim in some:
            units = tensor.detach().unflatten(dim, (len(order), -1))
            tensor.copy_(units.index_select(dim, order.to(tensor.device)).flatten(dim, dim + 1))
