"""Which tensors of a folder become which of a GGUF file: name, type, and the change of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from attar.compressors.export.head_rows import interleaved
from attar.stages.artifacts.gguf.element_types import fitting_type, num_bytes
from attar.stages.artifacts.gguf.expert_tensors import Rows, joined_experts
from attar.stages.artifacts.gguf.header import Architecture
from attar.stages.artifacts.model.tensor_files import tensor_infos

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
# Query and key projections, of whose rows the order hangs on the rotary embedding.
QUERY, KEY = ".attn_q.", ".attn_k."
# Routers stay in float32: they are small, and which expert is chosen hangs on their last digits.
ROUTER = ".ffn_gate_inp.weight"
# Numbers of a tensor that are in memory at once, float32: 16 MB.
NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the file: where its numbers come from, and what happens to them. `num_heads` 0: its rows stay where they are."""

    name: str
    shape: tuple[int, ...]
    kind: str
    # the type that was asked for, where its rows are whole blocks
    wanted: str
    # one after the other: a tensor of the folder, or the part of each expert
    rows: tuple[Rows, ...] = ()
    num_heads: int = 0
    shift: float = 0.0
    values: Tensor | None = None
    # (K): what the square error of a column weighs; llama.cpp's library rounds by it
    importance: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return num_bytes(self.shape, self.kind)

    @property
    def num_numbers(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()

    @property
    def source(self) -> str:
        """The tensor of the folder that it comes from, of several the first."""
        return self.rows[0].source if self.rows else self.name

    def chunks(self) -> Iterator[Tensor]:
        """Yield the rows as the file has them, a few million numbers at a time."""
        if self.values is not None:
            yield self.values
        for part in self.rows:
            head = part.num_rows // self.num_heads if self.num_heads else 1
            # whole heads, and whole sixteens of rows, by which gguf-py works
            unit = head if self.num_heads else 16
            step = max(1, NUMBERS_AT_ONCE // (max(part.width, 1) * unit)) * unit
            with safe_open(part.path, framework="pt") as opened:
                for chunk in part.chunks(opened.get_slice(part.source), step):
                    rows = interleaved(chunk, chunk.shape[0] // head) if self.num_heads else chunk
                    yield rows.float() + self.shift if self.shift else rows


def plan_tensors(
    folder: Path, architecture: Architecture, *, weights: str, ends: str, is_tied: bool
) -> list[PlannedTensor]:
    """Return every tensor of the file in the order of its blocks. Raises ValueError for a tensor that GGUF has no name for.

    Matrices get the type `weights`, embedding and head `ends`, vectors stay float32. What is tied is written once.
    """
    arch = architecture.family.arch
    names = tensor_names(arch, architecture.header["block_count"])
    tensors = [
        PlannedTensor(name, tuple(values.shape), "f32", "f32", values=values)
        for name, values in architecture.factors.items()
    ]
    has_own_head = architecture.family.has_own_head
    for source, rows in joined_experts(tensor_infos(folder)).items():
        name = names(source)
        if name is None:
            raise ValueError(f"gguf has no name for the tensor {rows[0].source[:120]!r} of a {arch} model")
        if name == HEAD and is_tied and not has_own_head:
            continue
        tensors.append(_planned(name, rows, architecture, ends if name in (EMBEDDING, HEAD) else weights))
    if is_tied and has_own_head and all(tensor.name != HEAD for tensor in tensors):
        embedding = next(tensor for tensor in tensors if tensor.name == EMBEDDING)
        tensors.append(_planned(HEAD, embedding.rows, architecture, ends))
    return sorted(tensors, key=_order)


def with_importance(tensors: list[PlannedTensor], powers: Mapping[str, Tensor]) -> list[PlannedTensor]:
    """Return the tensors with the importance of their columns: `powers`, E[x^2] (K) of what a product reads, by its name.

    Fused experts have none, and rows that are looked up read nothing.
    """
    return [replace(tensor, importance=powers.get(tensor.source.removesuffix(".weight"))) for tensor in tensors]


def fallback_fraction(tensors: list[PlannedTensor]) -> float:
    """Return the share of the numbers in matrices that did not get the type that was asked for."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    num_all = sum(tensor.num_numbers for tensor in matrices)
    return sum(tensor.num_numbers for tensor in matrices if tensor.kind != tensor.wanted) / max(num_all, 1)


def tensor_names(arch: str, num_blocks: int) -> Callable[[str], str | None]:
    """Return what gives a tensor's name in a file by its name in a folder: llama.cpp's own table. None: it has none."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # in an extra

    key = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
    table = get_tensor_name_map(key, num_blocks)
    return lambda source: table.get_name(source, try_suffixes=(".weight", ".bias"))


def heads_of(name: str, architecture: Architecture) -> int:
    """Return how many heads have their rows in another order in the file; 0 for none."""
    if not architecture.family.is_interleaved or not (QUERY in name or KEY in name):
        return 0
    return architecture.num_heads if QUERY in name else architecture.num_kv_heads


def shift_of(name: str, architecture: Architecture) -> float:
    """Return what is added to a tensor in the file."""
    return architecture.family.norm_shift if name.endswith("norm.weight") else 0.0


def _planned(name: str, rows: tuple[Rows, ...], architecture: Architecture, wanted: str) -> PlannedTensor:
    inner = rows[0].shape
    shape = inner if len(rows) == 1 and rows[0].expert is None else (len(rows), *inner)
    wanted = "f32" if len(shape) == 1 or name.endswith(ROUTER) else wanted
    kind = fitting_type(wanted, shape[-1])
    heads, shift = heads_of(name, architecture), shift_of(name, architecture)
    return PlannedTensor(name, shape, kind, wanted, rows, heads, shift)


def _order(tensor: PlannedTensor) -> tuple[int, int, str]:
    parts = tensor.name.split(".")
    is_block = parts[0] == "blk"
    return (1 if is_block else 0 if tensor.name != HEAD else 2, int(parts[1]) if is_block else 0, tensor.name)
