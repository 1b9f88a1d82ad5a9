"""What a family's cache is made of, seen in a run over three tokens. Keys and values as its attention gets them, and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.compressors.export.fused import attending_by, block_of
from attar.compressors.export.names import CONVOLUTION, GROWING, RECURRENCE, CachePart
from attar.compressors.export.recurrent import node_state_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def cache_parts(model: PreTrainedModel) -> list[CachePart]:
    """Return the tensors of a model's cache in the order of its blocks. Raises ValueError for a cache that no graph keeps.

    Keys and values are as the attention node gets them: of latents they are the expanded ones, the smaller of both padded. A block that
    attends over another one's keys has none of its own.
    """
    parts: list[CachePart] = []
    seen: list[Tensor] = []

    def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        if not any(key is other for other in seen):
            seen.append(key)
            size = key.shape[1], 0, max(key.shape[-1], value.shape[-1])
            parts.extend(CachePart(block_of(module), name, size) for name in GROWING)
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    with attending_by(model, record):
        cache = model(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=True).past_key_values
    if not hasattr(cache, "layers"):
        raise ValueError(f"{type(model).__name__} keeps its past in a {type(cache).__name__}; no graph is built for it")
    attending = {part.block for part in parts}
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "keys", None) is not None and index not in attending:
            raise ValueError(
                f"{type(model).__name__}: block {index} attends behind another door than transformers' own; no graph is built for it"
            )
        if hasattr(layer, "update_indexer"):
            raise ValueError(f"{type(model).__name__} keeps an index beside its keys; no graph is built for it")
        parts += _states(model, index, layer)
    if not parts:
        raise ValueError(f"{type(model).__name__} keeps no past in its cache; no graph is built for it")
    return sorted(parts, key=lambda part: part.block)


def of_blocks(parts: Sequence[CachePart], blocks: Sequence[int]) -> list[CachePart]:
    """Return the parts of some blocks, numbered as these follow each other."""
    return [replace(part, block=blocks.index(part.block)) for part in parts if part.block in blocks]


def _states(model: PreTrainedModel, index: int, layer: Any) -> list[CachePart]:
    parts = []
    for name in (CONVOLUTION, RECURRENCE):
        states = [state for state in getattr(layer, f"{name}s", {}).values() if state is not None]
        if len(states) > 1:
            raise ValueError(
                f"{type(model).__name__} keeps {len(states)} states of a kind a block; a graph is built for one"
            )
        for state in states:
            size = tuple(state.shape[1:])
            # the node keeps what comes before the next token, not the last one's own window
            own = (*size[:-1], size[-1] - 1) if name == CONVOLUTION else node_state_size(model, size)
            parts.append(CachePart(index, name, own))
    return parts
