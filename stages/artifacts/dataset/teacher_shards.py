"""Shards of rewritten rows with the teacher's log-probabilities: appended whole, found again after a crash, read by memory map.

A shard is `rows-00000.jsonl` and `logprobs/shard-00000.safetensors`: the candidates of all its rows one after the other, with the
offsets that tell them apart.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.compressors.data.compact import CompactCandidates, high_bits, pack, unpack
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.files import link_or_copy, whole_file
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows

FOLDER = "logprobs"
FORM = "compact-1"
# Maps open at once: each costs an address range and its index of rows, no memory for what is not read
MAX_OPEN = 256


def write_shard(folder: Path, index: int, rows: Sequence[Row], recorded: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Write one shard: candidates first, rows last, each with one rename. A shard exists when its rows do."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    if recorded:
        write_candidates(folder / FOLDER / shard_name(index), recorded)
    with whole_file(folder / rows_file(index)) as temporary:
        write_rows(temporary, rows)


def write_candidates(path: Path, recorded: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Write the candidates of some rows, each (ids T K, log-probabilities T K in nats), with one rename.

    At K = 64: 260 bytes a token for ids below 65,536, 276 below 262,144, plus the offsets. See `compressors/data/compact.py`.
    """
    pieces = list(recorded.values())
    ids = torch.cat([row_ids.int() for row_ids, _ in pieces])
    packed = pack(ids, torch.cat([logprobs.float() for _, logprobs in pieces]), high_bits(_largest(ids)))
    tensors = {"ids_low": packed.low, "logprobs": packed.logprobs, "tail": packed.tail}
    if packed.num_high_bits:
        tensors["ids_high"] = packed.high
    ends = torch.tensor([len(row_ids) for row_ids, _ in pieces]).cumsum(0).tolist()
    # one key: several are written in an order that changes from process to process, and with it the file's digest
    about = {"form": FORM, "num_high_bits": packed.num_high_bits, "rows": dict(zip(recorded, ends, strict=True))}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(whole, temporary, {"attar": json.dumps(about)})


def finished_shards(folder: Path) -> set[int]:
    """Return the indices of the whole shards in a folder."""
    return {int(path.stem.removeprefix("rows-")) for path in folder.glob("rows-*.jsonl")}


def gather_rows(folder: Path, num_shards: int) -> list[Row]:
    """Return the rows of all shards in order."""
    return [row for index in range(num_shards) for row in read_rows(folder / rows_file(index))]


def carry_candidates(source: Path, content: Path, rows: Sequence[Row]) -> None:
    """Put the candidates of these rows beside them: linked where the file system can, since a shard never changes. Else copied.

    `source` keeps its own, so that a stage killed in between can do it again. Raises ValueError when a file is not there.
    """
    for name in sorted({row.recorded_in for row in rows if row.recorded_in}):
        shard, target = source / FOLDER / name, content / FOLDER / name
        if not shard.exists():
            raise ValueError(f"recorded teacher {FOLDER}/{name} is missing from the data set")
        link_or_copy(shard, target)


def recorded_facts(num_recorded: int, model: Facts) -> dict[str, Any]:
    """Return what is known beforehand of data that this teacher is recorded for. Raises ValueError for more candidates than tokens."""
    facts = {"num_recorded": num_recorded}
    if "vocab_size" in model:
        facts["vocab_size"] = model["vocab_size"]
        if num_recorded > int(model["vocab_size"]):
            raise ValueError(f"num_recorded is {num_recorded}, but the vocabulary has {model['vocab_size']} tokens")
    return facts


def rows_file(index: int) -> str:
    """Return the file name of a shard's rows."""
    return f"rows-{index:05d}.jsonl"


def shard_name(index: int) -> str:
    """Return the file name of a shard's candidates."""
    return f"shard-{index:05d}.safetensors"


class TeacherRecord:
    """Recorded candidates of a data set by row: (token ids T K int32, log-probabilities T K float32 in nats).

    Shards are mapped, not loaded: a row costs the pages it lies on.
    """

    def __init__(self, dataset: Path) -> None:
        self._folder = dataset / FOLDER
        self._shards: OrderedDict[str, _Shard] = OrderedDict()

    def of(self, row: Row) -> tuple[Tensor, Tensor] | None:
        """Return what was recorded for a row, or None. Raises ValueError naming the file when it is absent or damaged."""
        packed = self.packed(row)
        return None if packed is None else unpack(packed)

    def packed(self, row: Row) -> CompactCandidates | None:
        """Return a row's candidates as they are stored, a copy of these bytes alone, or None."""
        if not row.recorded_in:
            return None
        shard = self._shards.pop(row.recorded_in, None) or _open_shard(self._folder / row.recorded_in)
        self._shards[row.recorded_in] = shard
        if len(self._shards) > MAX_OPEN:
            self._shards.popitem(last=False)
        if row.id not in shard.spans:
            raise ValueError(f"recorded teacher {FOLDER}/{row.recorded_in} has no row {row.id}")
        start, end = shard.spans[row.id]
        part = {name: shard.file.get_slice(name)[start:end] for name in shard.names}
        high = part.get("ids_high", torch.empty(end - start, 0, dtype=torch.uint8))
        return CompactCandidates(part["ids_low"], high, part["logprobs"], part["tail"], shard.num_high_bits)


@dataclass(frozen=True)
class _Shard:
    file: Any
    names: tuple[str, ...]
    spans: dict[str, tuple[int, int]]
    num_high_bits: int


def _open_shard(path: Path) -> _Shard:
    name = f"{FOLDER}/{path.name}"
    try:
        file: Any = safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise ValueError(f"recorded teacher {name} is missing from the data set") from error
    except SafetensorError as error:
        raise ValueError(f"recorded teacher {name} is damaged or incomplete: {error}") from error
    about = json.loads((file.metadata() or {}).get("attar", "{}"))
    if about.get("form") != FORM:
        raise ValueError(f"recorded teacher {name} has an unknown form; accepted: {FORM}. Run self_data again")
    ends = list(about["rows"].values())
    spans = dict(zip(about["rows"], zip([0, *ends[:-1]], ends, strict=True), strict=True))
    return _Shard(file, tuple(file.keys()), spans, about["num_high_bits"])


def _largest(ids: Tensor) -> int:
    return int(ids.max()) if ids.numel() else 0
