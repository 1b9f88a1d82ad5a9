"""Slots of a transformers model. A file of its own: transformers' cache classes take a second to import, which a plan need not wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from attar.compressors.models.slots import Forward, pad_left, prefill_chunks, window_mask

# Columns to write before the window moves back to the front: one copy of it in so many steps.
NUM_SPARE_CELLS = 64


class TorchSlots:
    """Slots of a transformers model, allocated once and written in place."""

    def __init__(
        self, forward: Forward, device: torch.device, *, num_layers: int, num_rows: int, num_prompt: int, num_new: int
    ) -> None:
        num_cells = num_prompt + num_new + NUM_SPARE_CELLS
        self._layers = [_SlotLayer(num_rows, num_cells) for _ in range(num_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._forward, self._device = forward, device
        self._num_prompt, self._num_cells = num_prompt, num_cells
        self._end = num_prompt  # the column that the next step writes

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        for chunk in prefill_chunks(rows, prompts):
            # samples of one prompt share its pass
            unique = list(dict.fromkeys(tuple(prompt[:-1]) for _, prompt in chunk))
            ids, mask = pad_left(unique, self._device)
            # made without the config: a sliding layer must keep every cell, as ours do
            _, cache = self._forward(ids, mask, DynamicCache(), True)
            copies = torch.tensor([unique.index(tuple(prompt[:-1])) for _, prompt in chunk], device=ids.device)
            targets = torch.tensor([row for row, _ in chunk], device=ids.device)
            for layer, read in zip(self._layers, cache.layers, strict=True):
                layer.put(targets, self._end, read.keys[copies], read.values[copies])  # type: ignore[index]

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        width = max(lengths)
        if self._end == self._num_cells:
            self._end = max(width, self._num_prompt)
            for layer in self._layers:
                layer.shift(self._num_cells, self._end, width)
        for layer in self._layers:
            layer.num_rows, layer.first, layer.end = len(tokens), self._end - width, self._end
        ids = torch.tensor(tokens, device=self._device)[:, None]
        mask = window_mask(torch.tensor(lengths, device=self._device)[:, None], width + 1)
        logits, _ = self._forward(ids, mask, self._cache, True)
        self._end += 1
        return logits[:, -1]

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        for layer in self._layers:
            layer.move(source, target, self._end)


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one block for all rows; `first` and `end` are the columns that the next step sees."""

    is_sliding = False

    def __init__(self, num_rows: int, num_cells: int) -> None:
        super().__init__()
        self._num_slots, self._num_cells = num_rows, num_cells
        self.num_rows, self.first, self.end = num_rows, 0, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, now that head counts and sizes are known. Zeros: what a mask hides must still be finite."""
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (self._num_slots, states.shape[1], self._num_cells, states.shape[3])
            setattr(self, name, torch.zeros(shape, dtype=states.dtype, device=states.device))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column for all live rows and return what they see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys[: self.num_rows], self.values[: self.num_rows]  # type: ignore[index]
        keys[:, :, self.end : self.end + 1] = key_states
        values[:, :, self.end : self.end + 1] = value_states
        return keys[:, :, self.first : self.end + 1], values[:, :, self.first : self.end + 1]

    def put(self, rows: Int[Tensor, "R"], end: int, key_states: Tensor, value_states: Tensor) -> None:
        """Write whole prompts so that they end before the column `end`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first = end - key_states.shape[2]
        self.keys[rows, :, first:end] = key_states  # type: ignore[index]
        self.values[rows, :, first:end] = value_states  # type: ignore[index]

    def shift(self, end: int, new_end: int, width: int) -> None:
        """Move the last `width` columns before `end` to before `new_end`."""
        for states in (self.keys, self.values):
            if states is not None:  # cloned, because source and target may overlap
                states[:, :, new_end - width : new_end] = states[:, :, end - width : end].clone()

    def move(self, source: int, target: int, end: int) -> None:
        """Copy the cells of one row over those of another."""
        for states in (self.keys, self.values):
            if states is not None:
                states[target, :, :end] = states[source, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of what is seen, and where it begins."""
        return self.end - self.first + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns seen before the new one."""
        return self.end - self.first

    def get_max_length(self) -> int:
        """Return how many cells a row has."""
        return self._num_cells
