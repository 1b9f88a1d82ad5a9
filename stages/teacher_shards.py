"""Shards of rewritten rows with the teacher's log-probabilities: appended whole, found again after a crash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.rows import Row, read_rows, write_rows

FOLDER = "logprobs"


def write_shard(folder: Path, index: int, rows: Sequence[Row], recorded: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Write one shard: candidates first, rows last, each with one rename. A shard exists when its rows do."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    if recorded:
        tensors = {}
        for row_id, (ids, logprobs) in recorded.items():
            tensors[f"{row_id}.ids"] = ids.to(torch.int32).contiguous()
            tensors[f"{row_id}.logprobs"] = logprobs.float().contiguous()
        temporary = folder / FOLDER / f".{shard_name(index)}"
        save_file(tensors, temporary)
        os.replace(temporary, folder / FOLDER / shard_name(index))
    temporary = folder / f".rows-{index:05d}"
    write_rows(temporary, rows)
    os.replace(temporary, folder / f"rows-{index:05d}.jsonl")


def finished_shards(folder: Path) -> set[int]:
    """Return the indices of the whole shards in a folder."""
    return {int(path.stem.removeprefix("rows-")) for path in folder.glob("rows-*.jsonl")}


def gather_rows(folder: Path, num_shards: int) -> list[Row]:
    """Return the rows of all shards in order."""
    return [row for index in range(num_shards) for row in read_rows(folder / f"rows-{index:05d}.jsonl")]


def shard_name(index: int) -> str:
    """Return the file name of a shard's candidates."""
    return f"shard-{index:05d}.safetensors"


class TeacherRecord:
    """Recorded candidates of a data set by row: (token ids T K, log-probabilities T K in nats). Shards are read once, when first asked for."""

    def __init__(self, dataset: Path) -> None:
        self._folder = dataset / FOLDER
        self._shards: dict[str, dict[str, Tensor]] = {}

    def of(self, row: Row) -> tuple[Tensor, Tensor] | None:
        """Return what was recorded for a row, or None."""
        if not row.recorded_in:
            return None
        if row.recorded_in not in self._shards:
            self._shards[row.recorded_in] = load_file(self._folder / row.recorded_in)
        shard = self._shards[row.recorded_in]
        return shard[f"{row.id}.ids"], shard[f"{row.id}.logprobs"]
