"""Tensors of a safetensors folder one at a time, and a writer that streams them. Memory is never that of a model."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attar.registry.artifacts.files import whole_file
from attar.stages.artifacts.model.weight_files import weight_files

WEIGHTS = "model.safetensors"
# Name of a dtype in a safetensors header.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor. `key`: its name there, where that is another than it is asked for by."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    path: Path
    key: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def tensor_infos(folder: Path) -> dict[str, TensorInfo]:
    """Return every tensor of a folder's safetensors files by name, sorted, from their headers alone.

    Raises ValueError for a folder without weights, a damaged file, or a dtype that is not plain (packed or quantized numbers).
    """
    infos = {name: info for path in weight_files(folder) for name, info in file_infos(path).items()}
    return dict(sorted(infos.items()))


def file_infos(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file by name, from its header. Raises ValueError as `tensor_infos` does."""
    infos = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise ValueError(f"{path.name}: {name} has dtype {part.get_dtype()}, which is not merged")
                infos[name] = TensorInfo(tuple(part.get_shape()), DTYPES[part.get_dtype()], path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return infos


def read_tensor(name: str, info: TensorInfo) -> Tensor:
    """Return one tensor, mapped from its file. The mapping is its own: when the tensor goes, so does its memory."""
    with safe_open(info.path, framework="pt") as opened:
        return opened.get_tensor(info.key or name)


def read_numbers(name: str, info: TensorInfo, tensor: Tensor) -> None:
    """Fill a tensor of the same shape and dtype, on the CPU, from a file. Memory that was used before is not mapped anew."""
    start, end = _data_offsets(info.path)[info.key or name]
    target = tensor.reshape(-1).view(torch.uint8).numpy().data
    assert len(target) == end - start, f"{name} has {end - start} bytes in {info.path.name}, not {len(target)}"
    with info.path.open("rb", buffering=0) as stream:
        stream.seek(start)
        num_read = 0
        while num_read < len(target):  # one read gives 2 GB at most
            count = stream.readinto(target[num_read:])
            if not count:
                raise ValueError(f"{info.path} ends within {name}: it is damaged")
            num_read += count


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `[...]` reads its elements into memory of their own, which is what a loader asks of a safetensors slice."""

    name: str
    info: TensorInfo

    def __getitem__(self, index: Any) -> Tensor:
        tensor = torch.empty(self.info.shape, dtype=self.info.dtype)
        read_numbers(self.name, self.info, tensor)
        return tensor[index]


def _data_offsets(path: Path) -> dict[str, tuple[int, int]]:
    status = path.stat()
    return _read_offsets(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_offsets(path: Path, inode: int, modified: int) -> dict[str, tuple[int, int]]:
    """Return where in a safetensors file each tensor's bytes begin and end. https://github.com/huggingface/safetensors#format"""
    with path.open("rb") as stream:
        num_header_bytes = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(num_header_bytes))
    first = 8 + num_header_bytes
    return {
        name: (first + entry["data_offsets"][0], first + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def plan_shards(sizes: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    """Return the names of each shard, in the mapping's order. A tensor above the limit has a shard of its own."""
    shards: list[list[str]] = [[]]
    num_bytes = 0
    for name, info in sizes.items():
        if shards[-1] and num_bytes + info.num_bytes > max_shard_bytes:
            shards.append([])
            num_bytes = 0
        shards[-1].append(name)
        num_bytes += info.num_bytes
    return shards


def shard_names(num_shards: int) -> list[str]:
    """Return the file names that transformers expects."""
    if num_shards == 1:
        return [WEIGHTS]
    return [f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors" for index in range(num_shards)]


def write_shard(
    path: Path,
    infos: Mapping[str, TensorInfo],
    chunks: Callable[[str], Iterable[Tensor]],
    *,
    on_written: Callable[[], None] = lambda: None,
    is_synced: bool = False,
) -> dict[str, int]:
    """Write one safetensors file, asking `chunks` for each tensor's elements in order as flat tensors of any float dtype.

    The file appears when it is whole. The same tensors give the same bytes: largest alignment first, then by name. Returns the CRC-32 of
    each tensor's bytes as they were in memory, by name: what `tensor_crc` gives for what is in the file.
    """
    names = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    digests = dict.fromkeys(names, 0)
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header(names, infos))
        for name in names:
            num_written = 0
            for chunk in chunks(name):
                flat = chunk.to(infos[name].dtype).reshape(-1).contiguous()
                num_written += flat.numel()
                content = flat.view(torch.uint8).numpy().data
                digests[name] = zlib.crc32(content, digests[name])
                stream.write(content)
            assert num_written == torch.Size(infos[name].shape).numel(), f"{name} is {num_written} elements long"
            on_written()
        if is_synced:
            stream.flush()
            os.fsync(stream.fileno())
    return digests


def tensor_crc(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)


def write_index(folder: Path, shards: Sequence[Sequence[str]], infos: Mapping[str, TensorInfo]) -> None:
    """Write which tensor lies in which shard, as transformers reads it; one shard needs no index."""
    if len(shards) == 1:
        return
    files = shard_names(len(shards))
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    index = {
        "metadata": {"total_size": sum(infos[name].num_bytes for name in weight_map)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2))


def _header(names: Sequence[str], infos: Mapping[str, TensorInfo]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        info = infos[name]
        end = offset + info.num_bytes
        entries[name] = {
            "dtype": DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the elements begin at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text
