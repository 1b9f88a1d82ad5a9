"""Which files of a folder hold a model's weights, read from their headers. All that an index names, whole, and none twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from attar.stages.artifacts.model.safe_folder import read_object

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD = re.compile(r"(model|shard)-\d+.*\.safetensors")
# Floating dtypes of a header, the least precise first; eight bits and fewer are packed weights, which a config describes.
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
NUM_NAMED = 3
MAX_NAME_CHARS = 120


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    path: Path

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights. Raises ValueError where they are not there, or not the only ones there could be."""
    config = read_object(folder / "config.json") if (folder / "config.json").exists() else {}
    if config.get("transformers_weights"):
        raise ValueError(f"{folder}: config.json names weights of its own; accepted: {WEIGHTS}, or shards and {INDEX}")
    present = {path.name for path in folder.glob("*.safetensors")}
    shards = set(_index(folder).values())
    if absent := sorted(shards - present):
        raise ValueError(f"{folder}: {INDEX} names {named(absent, 'files')} that are not there")
    whole = {WEIGHTS} & present
    others = {name for name in present if SHARD.fullmatch(name)} - shards
    if whole and shards - whole:
        raise ValueError(f"{folder} has {WEIGHTS} and {INDEX} of other files: which is the model? Remove one")
    if not whole and not shards:
        has = f"it has {named(sorted(present), 'files')}" if present else "it has no safetensors file"
        raise ValueError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX} is there; {has}")
    if others:
        raise ValueError(
            f"{folder} has {named(sorted(others), 'shards')} beside the weights: remove what is not of them"
        )
    return [folder / name for name in sorted(shards or whole)]


def left_out_files(folder: Path) -> list[str]:
    """Return the names of what lies beside the weights and is none of them. Adapters, and weights in forms of other programs."""
    taken = {path.name for path in weight_files(folder)}
    beside = {path.name for path in folder.glob("*.safetensors")} - taken
    return sorted(beside | {path.name for path in folder.glob("adapter_config.json")})


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a folder's weights by name, from the headers. Raises ValueError for damaged files, doubles, and an index that lies."""
    tensors: dict[str, StoredTensor] = {}
    counts: Counter[str] = Counter()
    for path in weight_files(folder):
        headers = stored_in(path)
        counts.update(headers.keys())
        tensors |= headers
    if doubled := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"{folder} has {named(doubled, 'tensors')} in two files")
    listed = _index(folder)
    if listed and (differing := sorted(listed.keys() ^ tensors.keys())):
        raise ValueError(f"{folder}: {INDEX} and the files differ in {named(differing, 'tensors')}")
    return dict(sorted(tensors.items()))


def stored_in(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file. Raises ValueError when it is cut off or damaged."""
    try:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
            parts = [opened.get_slice(name) for name in names]
            shapes = [(tuple(part.get_shape()), part.get_dtype()) for part in parts]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or was not copied whole: {error}") from error
    return {name: StoredTensor(shape, dtype, path) for name, (shape, dtype) in zip(names, shapes, strict=True)}


def stored_dtype(folder: Path) -> tuple[torch.dtype, dict[str, int]]:
    """Return the dtype that holds every stored number unrounded, and how many tensors have which. transformers would take the first tensor's."""
    counts = Counter(tensor.dtype for tensor in stored_tensors(folder).values() if tensor.dtype in FLOATS)
    if not counts:
        return torch.float32, {}
    widest = torch.float32 if counts.keys() >= {"F16", "BF16"} else FLOATS[max(counts, key=list(FLOATS).index)]
    widest = max((widest, *(FLOATS[name] for name in counts)), key=lambda dtype: dtype.itemsize)
    return widest, dict(sorted(counts.items()))


def named(names: Collection[str], what: str) -> str:
    """Return the first names and, where there are more, their count: `a, b, c and 37 more tensors`. Very long ones are cut."""
    first = ", ".join(
        name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}..." for name in [*names][:NUM_NAMED]
    )
    return first if len(names) <= NUM_NAMED else f"{first} and {len(names) - NUM_NAMED} more {what}"


def _index(folder: Path) -> dict[str, str]:
    return dict(read_object(folder / INDEX).get("weight_map", {})) if (folder / INDEX).exists() else {}
