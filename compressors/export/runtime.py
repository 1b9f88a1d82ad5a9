"""Run an exported graph under a torch model's interface. Its cache is allocated once and written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.export.names import PAST, PRESENT, cache_names
from attar.compressors.models.runner import positions_of
from attar.compressors.models.slots import Slots, pad_right, prefill_chunks

CPU = "CPUExecutionProvider"
# The graph gives logits for every token; where only the last are wanted, rows are run in groups whose others stay below this.
MAX_UNREAD_BYTES = 32 * 2**20


class OnnxRunner:
    """An onnxruntime session with a KV cache, as a `CausalRunner`. `provider` is what the session must really run on.

    Raises ValueError when onnxruntime fell back to another provider: it does so silently.
    """

    # the attention node takes several tokens behind a past from one row at a time: reading the context again is as quick
    shares_prefixes = False

    def __init__(self, session: Any, provider: str = CPU) -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session
        self.device = torch.device("cpu")  # where logits and cache lie, wherever the session computes
        past = [entry for entry in session.get_inputs() if entry.name.startswith(f"{PAST}.")]
        self.cache_sizes = len(past), past[0].shape[1], past[0].shape[3]  # tensors, heads, head size
        self._vocab_size = session.get_outputs()[0].shape[2]

    @property
    def torch_model(self) -> None:
        return None

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward; the cache is an `OnnxCache`, which is written in place: one that was given away is stale."""
        num_rows, num_tokens = input_ids.shape
        num_columns = attention_mask.shape[1]
        if cache is None:
            cache = OnnxCache(self, num_rows, num_columns)
        cache.reserve(num_columns)
        rows_at_once = num_rows
        if num_tokens > 1 and num_columns > num_tokens:
            rows_at_once = 1  # the attention node takes several tokens behind a past from one row at a time
        elif last_only:
            rows_at_once = max(1, MAX_UNREAD_BYTES // (4 * num_tokens * self._vocab_size))
        parts = []
        for start in range(0, num_rows, rows_at_once):
            rows = slice(start, start + rows_at_once)
            part = cache if rows_at_once >= num_rows else cache.view(rows)
            logits = part.run(input_ids[rows], attention_mask[rows])
            parts.append(logits[:, -1:].clone() if last_only and num_tokens > 1 else logits)
        return parts[0] if len(parts) == 1 else torch.cat(parts), cache

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        return OnnxSlots(self, num_rows, num_prompt + num_new)

    def bind(self, tensors: Sequence[np.ndarray]) -> Any:
        """Return a binding in which these tensors are the cache that is read and the cache that is written."""
        binding = self.session.io_binding()
        num_blocks = len(tensors) // 2
        names = zip(cache_names(num_blocks, PAST), cache_names(num_blocks, PRESENT), strict=True)
        for (past, present), tensor in zip(names, tensors, strict=True):
            target = ("cpu", 0, np.float32, list(tensor.shape), tensor.ctypes.data)
            binding.bind_input(past, *target)
            binding.bind_output(present, *target)
        return binding

    def run(
        self, binding: Any, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"]
    ) -> Float[Tensor, "B T V"]:
        """Run the graph over a bound cache and return the logits."""
        logits = torch.empty(*input_ids.shape, self._vocab_size)
        feeds = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": positions_of(attention_mask, input_ids.shape[1]),
        }
        feeds = {name: tensor.contiguous() for name, tensor in feeds.items()}  # kept alive until the run is over
        for name, tensor in feeds.items():
            binding.bind_input(name, "cpu", 0, np.int64, list(tensor.shape), tensor.data_ptr())
        binding.bind_output("logits", "cpu", 0, np.float32, list(logits.shape), logits.data_ptr())
        self.session.run_with_iobinding(binding)
        return logits


class OnnxCache:
    """Keys and values of all blocks for some rows, with room for `capacity` columns."""

    def __init__(self, runner: OnnxRunner, num_rows: int, capacity: int, tensors: Sequence[np.ndarray] = ()) -> None:
        num_tensors, num_heads, head_size = runner.cache_sizes
        shape = (num_rows, num_heads, capacity, head_size)
        # zeros: what a mask hides must still be finite
        self.tensors = list(tensors) or [np.zeros(shape, np.float32) for _ in range(num_tensors)]
        self.capacity = capacity
        self._runner = runner
        self._binding: Any = None

    def reserve(self, num_columns: int) -> None:
        """Make room for so many columns; twice what is there at least, so that a growing text is copied seldom."""
        if num_columns <= self.capacity:
            return
        capacity = max(num_columns, 2 * self.capacity)
        grown = OnnxCache(self._runner, self.tensors[0].shape[0], capacity)
        for old, new in zip(self.tensors, grown.tensors, strict=True):
            new[:, :, : self.capacity] = old
        self.tensors, self.capacity, self._binding = grown.tensors, capacity, None

    def view(self, rows: slice) -> OnnxCache:
        """Return the cache of adjacent rows, in the same memory."""
        return OnnxCache(self._runner, 0, self.capacity, [tensor[rows] for tensor in self.tensors])

    def run(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"]) -> Float[Tensor, "B T V"]:
        """Feed new tokens to all rows and return their logits. Their keys and values are written behind those of the row."""
        if self._binding is None:
            self._binding = self._runner.bind(self.tensors)
        return self._runner.run(self._binding, input_ids, attention_mask)


class OnnxSlots:
    """Slots of an exported graph. Each row begins at column 0 and has its own end, so nothing is ever moved to make room."""

    def __init__(self, runner: OnnxRunner, num_rows: int, capacity: int) -> None:
        self._runner = runner
        self._cache = OnnxCache(runner, num_rows, capacity)
        self._live = self._cache

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        for chunk in prefill_chunks(rows, prompts):
            unique = list(
                dict.fromkeys(tuple(prompt[:-1]) for _, prompt in chunk)
            )  # samples of one prompt share its pass
            ids, mask = pad_right(unique, self._runner.device)
            _, read = self._runner.forward(ids, mask, None, last_only=True)
            for row, prompt in chunk:
                source, length = unique.index(tuple(prompt[:-1])), len(prompt) - 1
                for old, new in zip(self._cache.tensors, read.tensors, strict=True):
                    old[row, :, :length] = new[source, :, :length]

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        if self._live.tensors[0].shape[0] != len(tokens):
            self._live = self._cache.view(slice(0, len(tokens)))
        columns = torch.arange(max(lengths) + 1)
        mask = (columns <= torch.tensor(lengths)[:, None]).long()
        return self._live.run(torch.tensor(tokens)[:, None], mask)[:, -1]

    def move(self, source: int, target: int) -> None:
        for tensor in self._cache.tensors:
            tensor[target] = tensor[source]
