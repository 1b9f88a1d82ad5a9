"""Files as ranges of bytes with a digest each. A tensor is a range, so that two versions share those that did not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Written beside the files of a version when it is registered; SHA256SUMS lists it like any other.
RANGES = "byte-ranges.json"
FORMAT = 1
# What no tensor divides is divided here: graphs and GGUF files keep most of their tensors where they were.
FIXED_BYTES = 1 << 20
# Of a safetensors file: 8 bytes of length, then so much JSON at most (https://huggingface.co/docs/safetensors).
MAX_HEADER_BYTES = 100_000_000
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ByteRange:
    """A part of a file: where it begins, its length, and its sha256."""

    start: int
    num_bytes: int
    sha256: str


def write_ranges(folder: Path) -> None:
    """Write the ranges of every file of a finished folder."""
    (folder / RANGES).unlink(missing_ok=True)
    files = {name: [[part.num_bytes, part.sha256] for part in parts] for name, parts in folder_ranges(folder).items()}
    (folder / RANGES).write_text(json.dumps({"format": FORMAT, "files": files}, separators=(",", ":")))


def folder_ranges(folder: Path) -> dict[str, list[ByteRange]]:
    """Return the ranges of every file under a folder by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_ranges(path) for path in paths}


def file_ranges(path: Path) -> list[ByteRange]:
    """Return the ranges of a file, without a gap. Header and tensors of a safetensors file, else pieces of one size."""
    with path.open("rb") as stream:
        lengths = tensor_lengths(path) if path.suffix == ".safetensors" else None
        ranges, start = [], 0
        for length in lengths or _fixed_lengths(path.stat().st_size):
            ranges.append(ByteRange(start, length, _digest(stream, length)))
            start += length
    return ranges


def tensor_lengths(path: Path) -> list[int] | None:
    """Return the lengths of a safetensors file's header and tensors in their order. None where they do not fill the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        header_bytes = 8 + int.from_bytes(stream.read(8), "little")
        if header_bytes > min(size, MAX_HEADER_BYTES):
            return None
        try:
            header = json.loads(stream.read(header_bytes - 8))
            offsets = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            return None
    lengths, end = [header_bytes], 0
    for begin, stop in offsets:
        if begin != end or stop < begin:
            return None
        lengths += [stop - begin] if stop > begin else []
        end = stop
    return lengths if header_bytes + end == size else None


def read_ranges(text: str) -> dict[str, list[ByteRange]]:
    """Return the ranges that were written of a version; nothing where a later release wrote them otherwise."""
    try:
        content: Any = json.loads(text)
        if content["format"] != FORMAT:
            return {}
        return {name: list(_placed(parts)) for name, parts in content["files"].items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return {}


def where_held(folder: Path, ranges: Mapping[str, Iterable[ByteRange]]) -> dict[str, tuple[Path, int]]:
    """Return where each range lies under a folder: digest to file and first byte."""
    return {part.sha256: (folder / name, part.start) for name, parts in ranges.items() for part in parts}


def _placed(parts: Iterable[tuple[int, str]]) -> Iterator[ByteRange]:
    start = 0
    for num_bytes, sha256 in parts:
        if num_bytes < 0:
            raise ValueError(f"{num_bytes} bytes")
        yield ByteRange(start, int(num_bytes), str(sha256))
        start += num_bytes


def _fixed_lengths(size: int) -> list[int]:
    whole, rest = divmod(size, FIXED_BYTES)
    return [FIXED_BYTES] * whole + ([rest] if rest else [])


def _digest(stream: Any, num_bytes: int) -> str:
    digest = hashlib.sha256()
    while num_bytes > 0:
        block = stream.read(min(READ_BYTES, num_bytes))
        if not block:
            break
        digest.update(block)
        num_bytes -= len(block)
    return digest.hexdigest()
