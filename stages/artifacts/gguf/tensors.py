"""Which tensors of a folder become which of a GGUF file: name, type, and the change of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from attar.compressors.export.head_rows import in_halves, interleaved
from attar.stages.artifacts.gguf.element_types import fitting_type, num_bytes
from attar.stages.artifacts.gguf.header import Architecture
from attar.stages.artifacts.model.tensor_files import TensorInfo, tensor_infos

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
# Query and key projections, of whose rows the order hangs on the rotary embedding.
QUERY, KEY = ".attn_q.", ".attn_k."
# Numbers of a tensor that are in memory at once, float32: 16 MB.
NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the file: where its numbers come from, and what happens to them. `num_heads` 0: its rows stay where they are."""

    name: str
    source: str
    info: TensorInfo
    kind: str
    # the type that was asked for, where its rows are whole blocks
    wanted: str
    num_heads: int = 0
    shift: float = 0.0
    values: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return num_bytes(self.info.shape, self.kind)

    @property
    def num_numbers(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.info.shape).numel()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the rows as the file has them, a few million numbers at a time."""
        if self.values is not None:
            yield self.values
            return
        with safe_open(self.info.path, framework="pt") as opened:
            part = opened.get_slice(self.source)
            rows = self.info.shape[0]
            head = rows // self.num_heads if self.num_heads else 1
            width = max(1, self.num_numbers // max(rows, 1))
            # whole heads, and whole sixteens of rows, by which gguf-py works
            unit = head if self.num_heads else 16
            step = max(1, NUMBERS_AT_ONCE // (width * unit)) * unit
            for first in range(0, rows, step):
                chunk = part[first : first + step]
                if self.num_heads:
                    chunk = interleaved(chunk, chunk.shape[0] // head)
                yield chunk.float() + self.shift if self.shift else chunk

    def restored(self, written: Tensor) -> Tensor:
        """Return the numbers of the file in the order and the sense of the model's folder."""
        return (in_halves(written, self.num_heads) if self.num_heads else written) - self.shift


def plan_tensors(
    folder: Path, architecture: Architecture, *, weights: str, ends: str, is_tied: bool
) -> list[PlannedTensor]:
    """Return every tensor of the file in the order of its blocks. Raises ValueError for a tensor that GGUF has no name for.

    Matrices get the type `weights`, embedding and head `ends`, vectors stay float32. What is tied is written once.
    """
    names = tensor_names(architecture.family.arch, architecture.header["block_count"])
    tensors = [
        PlannedTensor(name, name, _info(values), "f32", "f32", values=values)
        for name, values in architecture.factors.items()
    ]
    infos = tensor_infos(folder)
    tied_head = is_tied and not architecture.family.has_own_head
    for source, info in infos.items():
        name = names(source)
        if name is None:
            raise ValueError(f"gguf has no name for the tensor {source[:120]!r} of a {architecture.family.arch} model")
        if name == HEAD and tied_head:
            continue
        tensors.append(_planned(name, source, info, architecture, ends if name in (EMBEDDING, HEAD) else weights))
    if is_tied and architecture.family.has_own_head and all(tensor.name != HEAD for tensor in tensors):
        source = next(tensor for tensor in tensors if tensor.name == EMBEDDING)
        tensors.append(_planned(HEAD, source.source, source.info, architecture, ends))
    return sorted(tensors, key=_order)


def fallback_fraction(tensors: list[PlannedTensor]) -> float:
    """Return the share of the numbers in matrices that did not get the type that was asked for."""
    matrices = [tensor for tensor in tensors if len(tensor.info.shape) > 1]
    num_all = sum(tensor.num_numbers for tensor in matrices)
    return sum(tensor.num_numbers for tensor in matrices if tensor.kind != tensor.wanted) / max(num_all, 1)


def _planned(name: str, source: str, info: TensorInfo, architecture: Architecture, wanted: str) -> PlannedTensor:
    is_vector = len(info.shape) == 1
    heads = 0
    if architecture.family.is_interleaved and (QUERY in name or KEY in name):
        heads = architecture.num_heads if QUERY in name else architecture.num_kv_heads
    shift = architecture.family.norm_shift if name.endswith("norm.weight") else 0.0
    wanted = "f32" if is_vector else wanted
    kind = fitting_type(wanted, info.shape[-1])
    return PlannedTensor(name, source, info, kind, wanted, heads, shift)


def _info(values: Tensor) -> TensorInfo:
    return TensorInfo(tuple(values.shape), values.dtype, Path())


def tensor_names(arch: str, num_blocks: int) -> Callable[[str], str | None]:
    """Return what gives a tensor's name in a file by its name in a folder: llama.cpp's own table. None: it has none."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # in an extra

    key = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
    table = get_tensor_name_map(key, num_blocks)
    return lambda source: table.get_name(source, try_suffixes=(".weight", ".bias"))


def _order(tensor: PlannedTensor) -> tuple[int, int, str]:
    parts = tensor.name.split(".")
    is_block = parts[0] == "blk"
    return (1 if is_block else 0 if tensor.name != HEAD else 2, int(parts[1]) if is_block else 0, tensor.name)


def by_source(tensors: list[PlannedTensor]) -> Mapping[str, PlannedTensor]:
    """Return the tensors by their name in the folder; of an embedding that is also the head, the embedding."""
    return {tensor.source: tensor for tensor in reversed(tensors)}
