"""Run an exported graph under the same interface as a torch model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compressors.export.graph import cache_names
from compressors.measure.runner import positions_of
from compressors.measure.slots import Slots, pad_left, prefill_chunks, window_mask

# Columns that no row needs are carried along until they are this share of the needed ones: cutting copies the cache.
MAX_SPARE_FRACTION = 0.25


class OnnxRunner:
    """An onnxruntime session with a KV cache, as a `CausalRunner`. `provider` is what the session must really run on.

    Raises ValueError when onnxruntime fell back to another provider: it does so silently.
    """

    def __init__(self, session: Any, provider: str = "CPUExecutionProvider") -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session
        self.device = torch.device("cpu")
        past = [entry for entry in session.get_inputs() if entry.name.startswith("past_key_values.")]
        self._past_names = [entry.name for entry in past]
        self._head_shape = (past[0].shape[1], past[0].shape[3])
        self._output_names = ["logits", *cache_names(len(past) // 2, "present")]

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward; the cache is the list of the graph's outputs."""
        num_rows = input_ids.shape[0]
        if cache is None:
            heads, head_size = self._head_shape
            cache = [np.zeros((num_rows, heads, 0, head_size), dtype=np.float32) for _ in self._past_names]
        feeds = {
            "input_ids": input_ids.numpy(),
            "attention_mask": attention_mask.numpy(),
            "position_ids": positions_of(attention_mask, input_ids.shape[1]).numpy(),
            **dict(zip(self._past_names, cache, strict=True)),
        }
        logits, *present = self.session.run(self._output_names, feeds)
        logits = torch.from_numpy(logits)
        return (logits[:, -1:] if last_only else logits), present

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        return OnnxSlots(self)


class OnnxSlots:
    """Slots of an exported graph, which returns a longer cache at every step: what no row needs any more is cut off now and then."""

    def __init__(self, runner: OnnxRunner) -> None:
        self._runner = runner
        self._cache: list[np.ndarray] = []

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        num_rows = max(*rows, self._num_rows - 1) + 1
        for chunk in prefill_chunks(rows, prompts):
            ids, mask = pad_left([prompt[:-1] for _, prompt in chunk], self._runner.device)
            _, present = self._runner.forward(ids, mask, None, last_only=True)
            width = max(self._width, ids.shape[1])
            self._cache = [_grown(old, num_rows, width, like=new) for old, new in self._pairs(present)]
            for old, new in zip(self._cache, present, strict=True):
                old[[row for row, _ in chunk], :, width - new.shape[2] :] = new
        if self._cache:  # rows of one-token prompts have nothing to be filled with, but a place
            self._cache = [_grown(old, num_rows, self._width, like=old) for old in self._cache]

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        needed = max(lengths)
        first = self._width - needed if self._width - needed > MAX_SPARE_FRACTION * needed else 0
        cache = [np.ascontiguousarray(old[: len(tokens), :, first:]) for old in self._cache] or None
        before = torch.tensor(lengths)[:, None]
        mask = window_mask(before, self._width - first + 1)
        logits, self._cache = self._runner.forward(torch.tensor(tokens)[:, None], mask, cache, last_only=True)
        return logits[:, -1]

    def move(self, source: int, target: int) -> None:
        for old in self._cache:
            old[target] = old[source]

    @property
    def _num_rows(self) -> int:
        return self._cache[0].shape[0] if self._cache else 0

    @property
    def _width(self) -> int:
        return self._cache[0].shape[2] if self._cache else 0

    def _pairs(self, present: list[np.ndarray]) -> list[tuple[np.ndarray | None, np.ndarray]]:
        return list(zip(self._cache or [None] * len(present), present, strict=True))


def _grown(old: np.ndarray | None, num_rows: int, width: int, *, like: np.ndarray) -> np.ndarray:
    """Return the cache with room for more rows (after) and more columns (before); zeros where nothing is."""
    if old is not None and old.shape[0] >= num_rows and old.shape[2] == width:
        return old
    grown = np.zeros((num_rows, like.shape[1], width, like.shape[3]), like.dtype)
    if old is not None:
        grown[: old.shape[0], :, width - old.shape[2] :] = old
    return grown
