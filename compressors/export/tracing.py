"""What the nodes of a trace share. The graph's inputs, its cache, and the cache that the model sees meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin

from attar.compressors.export.names import PRESENT, CachePart

# Added to the score of a column that no token may see. Not -inf: a row of padding alone must stay finite.
MASKED = -1e9


@dataclass
class Tracing:
    """What the nodes of every block need of the graph's inputs. Set by the traced forward before the model is called."""

    parts: Sequence[CachePart]
    num_blocks: int
    past: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    present: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    position_ids: Int[Tensor, "B T"] | None = None
    last_columns: Int[Tensor, "B"] | None = None
    num_columns: Int[Tensor, "1"] | None = None
    bias: Float[Tensor, "B 1 T S"] | None = None
    distances: Int[Tensor, "B 1 T S"] | None = None  # from a token back to a column, counted in tokens
    is_token: Float[Tensor, "B T"] | None = None
    block: int = 0  # of the state that was asked for last
    keys: list[tuple[Tensor, int]] = field(default_factory=list)  # and the block that made them
    # whether the bias hides what comes later too, which onnxruntime's attention does by itself
    is_causal: bool = False

    def begin(self, past: list[Tensor], attention_mask: Int[Tensor, "B S"], position_ids: Int[Tensor, "B T"]) -> Cache:
        """Read the inputs; return a cache that leaves all as it is. The nodes append keys and values and move states on."""
        (num_rows, num_columns), num_new = attention_mask.shape, position_ids.shape[1]
        columns = torch.arange(num_columns)
        self.past = {(part.block, part.name): tensor for part, tensor in zip(self.parts, past, strict=True)}
        self.present, self.keys, self.position_ids = {}, [], position_ids
        # the last real column of each row: the row's end, be its padding before the tokens or behind them
        self.last_columns = (attention_mask * columns).amax(dim=-1).to(torch.int32)
        self.num_columns = torch.full((1,), num_columns, dtype=torch.int32)
        if self.is_causal:
            self._hide_later(attention_mask, position_ids)
        else:
            hidden = torch.where(attention_mask == 0, MASKED, 0.0)
            self.bias = hidden[:, None, None, :].expand(num_rows, 1, num_new, num_columns)
        if any(not part.is_growing for part in self.parts):
            new = attention_mask.index_select(1, torch.arange(num_new) + (num_columns - num_new))
            # a single token is none of padding, wherever its row ends
            self.is_token = torch.maximum(new, (torch.full((1, 1), num_new) == 1).long()).float()
        return Cache(layers=[_layer(self, index) for index in range(self.num_blocks)])

    def _hide_later(self, attention_mask: Int[Tensor, "B S"], position_ids: Int[Tensor, "B T"]) -> None:
        """Hide padding and what comes behind a token. Here and not in a block: all blocks share it."""
        num_columns, num_new = attention_mask.shape[1], position_ids.shape[1]
        ends = torch.arange(num_new) + (num_columns - num_new)
        is_earlier = torch.arange(num_columns)[None, :] <= ends[:, None]
        is_seen = is_earlier[None] & (attention_mask[:, None, :] > 0)
        self.bias = torch.where(is_seen, 0.0, MASKED)[:, None]
        columns = attention_mask.cumsum(dim=-1) - 1
        self.distances = (position_ids[:, :, None] - columns[:, None, :])[:, None]

    def state(self, name: str) -> Tensor:
        """Return the state that comes into the block whose cache was asked for last."""
        return self.past[self.block, name]

    def hand_on(self, name: str, state: Tensor) -> None:
        """Note the state that goes out of that block."""
        self.present[self.block, name] = state

    def keys_of(self, key: Tensor, index: int) -> int:
        """Return the block whose keys these are: an earlier one's, where a family shares them."""
        owners = [owner for other, owner in self.keys if other is key]
        if not owners:
            self.keys.append((key, index))
        return owners[0] if owners else index

    def outputs(self) -> list[Tensor]:
        """Return the cache that goes out, in the order of its parts. Raises ValueError where nothing was handed on."""
        missing = [part for part in self.parts if (part.block, part.name) not in self.present]
        if missing:
            raise ValueError(
                f"nothing writes {missing[0].port(PRESENT)}: it is done behind another door than transformers' own"
            )
        return [self.present[part.block, part.name] for part in self.parts]


class _Untouched(CacheLayerMixin):
    """The cache of an attention as the model sees it during the trace."""

    is_sliding = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class _Stateful(LinearAttentionCacheLayerMixin):
    """The cache of a recurrence as the model sees it during the trace: always empty, so that it takes the way of a prompt."""

    def __init__(self, tracing: Tracing, block: int) -> None:
        super().__init__()
        self._tracing, self._block = tracing, block

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        pass

    def update_conv_state(self, conv_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._tracing.block = self._block
        return conv_states

    def update_recurrent_state(self, recurrent_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return recurrent_states


class _Both(_Stateful, _Untouched):
    """The cache of a block that attends and recurs side by side."""


def _layer(tracing: Tracing, block: int) -> Any:
    kinds = {part.is_growing for part in tracing.parts if part.block == block}
    if kinds == {True, False}:
        return _Both(tracing, block)
    return _Stateful(tracing, block) if kinds == {False} else _Untouched()
