"""Run an exported graph under a torch model's interface. Its cache is allocated once and written in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.export.appending import run_appending
from attar.compressors.export.names import APPENDED, CACHE, FIRST_VECTOR, GROWING, PAST, PREFIX, PRESENT
from attar.compressors.models.runner import positions_of
from attar.compressors.models.slots import Slots, pad_right, prefill_chunks

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Types of a graph's caches and logits as onnxruntime names them, and what ONNX numbers them, which a binding takes.
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int8)": torch.int8,
}
ELEMENTS = {torch.float32: 1, torch.int8: 3, torch.int64: 7, torch.float16: 10, torch.bfloat16: 16}
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
        # where ids, logits and cache lie: beside the provider where torch has its memory too, else in the machine's
        self.device = torch.device("cuda" if provider == CUDA and torch.cuda.is_available() else "cpu")
        past = [entry for entry in session.get_inputs() if entry.name.startswith(f"{PAST}.")]
        # of each tensor: its names coming in and going out, and its size behind the batch, 0 for the columns of keys and values
        self.ports = [(entry.name, entry.name.replace(PAST, PRESENT, 1)) for entry in past]
        self.sizes = [tuple(dim if isinstance(dim, int) else 0 for dim in entry.shape[1:]) for entry in past]
        self.dtypes = [DTYPES[entry.type] for entry in past]
        self.is_appending = session.get_modelmeta().custom_metadata_map.get(CACHE) == APPENDED
        self.has_states = any(not name.endswith(GROWING) for name, _ in self.ports)
        self._vocab_size = session.get_outputs()[0].shape[2]
        prefix = next((entry for entry in session.get_inputs() if entry.name == PREFIX), None)
        # where the graph takes vectors it wants some in every run: one that no id names
        self._vectors = None if prefix is None else torch.zeros(1, prefix.shape[1], device=self.device)

    @property
    def torch_model(self) -> None:
        return None

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token, over all blocks."""
        columns = [(size, dtype) for size, dtype in zip(self.sizes, self.dtypes, strict=True) if 0 in size]
        return sum(math.prod(dim or 1 for dim in size) * dtype.itemsize for size, dtype in columns)

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

    @property
    def num_channels(self) -> int:
        """Width of the vectors that the graph takes; 0: it takes none."""
        return 0 if self._vectors is None else self._vectors.shape[1]

    def take_vectors(self, vectors: Float[Tensor, "P D"]) -> Sequence[int]:
        """See PrefixableRunner.take_vectors."""
        if self._vectors is None:
            raise ValueError("the graph has no input for vectors; export it with format.takes_prefix: true")
        if vectors.shape[1] != self._vectors.shape[1]:
            raise ValueError(f"vectors of width {vectors.shape[1]} for a graph of width {self._vectors.shape[1]}")
        self._vectors = vectors.float().contiguous().to(self.device)
        first = int(self.session.get_modelmeta().custom_metadata_map[FIRST_VECTOR])
        return range(first, first + len(vectors))

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        return OnnxSlots(self, num_rows, num_prompt + num_new)

    def bind(self, tensors: Sequence[Tensor]) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
        """Return a binding of a cache that is read and written, and its states as (read, written).

        A state is read while the next one is written: it goes beside and is copied, a small thing next to keys and values.
        """
        binding, states = self.session.io_binding(), []
        for (past, present), tensor in zip(self.ports, tensors, strict=True):
            written = tensor
            if not past.endswith(GROWING):
                written = torch.empty_like(tensor)
                states.append((tensor, written))
            _bind(binding.bind_input, past, tensor)
            _bind(binding.bind_output, present, written)
        return binding, states

    def run(
        self, binding: Any, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"]
    ) -> Float[Tensor, "B T V"]:
        """Run the graph over a bound cache and return the logits."""
        logits = torch.empty(*input_ids.shape, self._vocab_size, device=self.device)
        feeds = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": positions_of(attention_mask, input_ids.shape[1]),
        }
        if self._vectors is not None:
            feeds[PREFIX] = self._vectors
        feeds = {
            name: tensor.to(self.device).contiguous() for name, tensor in feeds.items()
        }  # kept until the run is over
        for name, tensor in feeds.items():
            _bind(binding.bind_input, name, tensor)
        _bind(binding.bind_output, "logits", logits)
        if self.device.type == "cuda":  # onnxruntime has a stream of its own, which does not wait for torch's
            torch.cuda.current_stream(self.device).synchronize()
        self.session.run_with_iobinding(binding)
        return logits


def _bind(bind: Callable[..., None], name: str, tensor: Tensor) -> None:
    """Bind a tensor where it lies. It must stay alive as long as the binding is used."""
    device = tensor.device
    bind(name, device.type, device.index or 0, ELEMENTS[tensor.dtype], list(tensor.shape), tensor.data_ptr())


class OnnxCache:
    """Keys and values of all blocks for some rows, with room for `capacity` columns."""

    def __init__(self, runner: OnnxRunner, num_rows: int, capacity: int, tensors: Sequence[Tensor] = ()) -> None:
        # zeros: what a mask hides must still be finite, and a state begins with nothing
        self.tensors = list(tensors) or [
            _zeros((num_rows, *(dim or capacity for dim in size)), dtype, runner.device)
            for size, dtype in zip(runner.sizes, runner.dtypes, strict=True)
        ]
        self.capacity = capacity
        self._runner = runner
        self._binding: Any = None
        self._states: list[tuple[Tensor, Tensor]] = []

    def reserve(self, num_columns: int) -> None:
        """Make room for so many columns; twice what is there at least, so that a growing text is copied seldom."""
        if num_columns <= self.capacity:
            return
        capacity = max(num_columns, 2 * self.capacity)
        grown = OnnxCache(self._runner, self.tensors[0].shape[0], capacity)
        for size, old, new in zip(self._runner.sizes, self.tensors, grown.tensors, strict=True):
            if 0 in size:
                new[:, :, : self.capacity] = old
            else:
                new[:] = old
        self.tensors, self.capacity, self._binding = grown.tensors, capacity, None

    def view(self, rows: slice) -> OnnxCache:
        """Return the cache of adjacent rows, in the same memory."""
        return OnnxCache(self._runner, 0, self.capacity, [tensor[rows] for tensor in self.tensors])

    def run(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"]) -> Float[Tensor, "B T V"]:
        """Feed new tokens to all rows and return their logits. Their keys and values are written behind those of the row."""
        if self._runner.is_appending:
            return run_appending(self._runner.session, self._runner.ports, self.tensors, input_ids, attention_mask)
        if self._binding is None:
            self._binding, self._states = self._runner.bind(self.tensors)
        logits = self._runner.run(self._binding, input_ids, attention_mask)
        for state, written in self._states:
            state.copy_(written)
        return logits


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    # numpy's take no memory before they are written, and most of a cache may never be
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(*shape)


class OnnxSlots:
    """Slots of an exported graph. Each row begins at column 0 and has its own end, so nothing is ever moved to make room."""

    def __init__(self, runner: OnnxRunner, num_rows: int, capacity: int) -> None:
        self._runner = runner
        self._cache = OnnxCache(runner, num_rows, capacity)
        self._live = self._cache

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        for row in rows:
            for size, tensor in zip(self._runner.sizes, self._cache.tensors, strict=True):
                if 0 not in size:
                    tensor[row] = 0  # the state of whoever had the row before
        for chunk in prefill_chunks(rows, prompts):
            # samples of one prompt share its pass
            unique = list(dict.fromkeys(tuple(prompt[:-1]) for _, prompt in chunk))
            # a state is of every token that was read: such rows are read together only where none is padded
            by_length = groupby(sorted(unique, key=len), key=len)
            groups = [list(group) for _, group in by_length] if self._runner.has_states else [unique]
            for group in groups:
                self._read(group, chunk)

    def _read(self, prompts: Sequence[tuple[int, ...]], chunk: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Read prompts, and give the rows of `chunk` that go on from them what the cache then holds."""
        ids, mask = pad_right(prompts, self._runner.device)
        _, read = self._runner.forward(ids, mask, None, last_only=True)
        for row, prompt in chunk:
            if tuple(prompt[:-1]) not in prompts:
                continue
            source, length = prompts.index(tuple(prompt[:-1])), len(prompt) - 1
            for size, old, new in zip(self._runner.sizes, self._cache.tensors, read.tensors, strict=True):
                columns = slice(0, length if 0 in size else None)
                old[row, :, columns] = new[source, :, columns]

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        if self._live.tensors[0].shape[0] != len(tokens):
            self._live = self._cache.view(slice(0, len(tokens)))
        columns = torch.arange(max(lengths) + 1)
        mask = (columns <= torch.tensor(lengths)[:, None]).long()
        return self._live.run(torch.tensor(tokens)[:, None], mask)[:, -1]

    def move(self, source: int, target: int) -> None:
        for tensor in self._cache.tensors:
            tensor[target] = tensor[source]
