"""Merge models tensor by tensor into a folder. What is read is one tensor of each model, what is written is a chunk."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from attar.compressors.merge.group import Merged, MergeMethod, TensorGroup
from attar.compressors.merge.methods import check_filters
from attar.compressors.merge.setting import TensorLocation, locations
from attar.registry.artifacts.files import write_synced
from attar.stages.artifacts.model.tensor_files import TensorInfo, plan_shards, shard_names, write_index, write_shard
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.merge.sources import FolderSource, Source, check_alike
from attar.stages.runtime.progress import bar, note


@dataclass(frozen=True)
class Passthrough:
    """The one model as it is: what folding an adapter leaves to be done."""

    @property
    def needs_base(self) -> bool:
        return False

    @property
    def num_models(self) -> tuple[int, int]:
        return 1, 1

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the model's own tensor; as every merge, it refuses numbers that are not finite."""
        return Merged((rows[0] for rows in group.chunks()), "folded")


@dataclass(frozen=True)
class MergeOrder:
    """One merge: method, students and base. `dtype` None: the first model's; the shards' size."""

    method: MergeMethod
    students: tuple[Source, ...]
    base: FolderSource | None
    dtype: torch.dtype | None
    max_shard_bytes: int

    @property
    def template(self) -> FolderSource:
        """The model whose config and tokenizer the result has: the base, else the first student."""
        return self.base or self.students[0].base

    def infos(self) -> Mapping[str, TensorInfo]:
        """Return what is written: the template's tensors, in the dtype asked for."""
        return {name: self._cast(info) for name, info in self.template.infos.items()}

    def _cast(self, info: TensorInfo) -> TensorInfo:
        is_cast = self.dtype is not None and info.dtype.is_floating_point
        return replace(info, dtype=self.dtype) if is_cast else info  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError when the models do not fit together. Also when a rule of the method fits none of their tensors."""
        who = "base" if self.base else "student 1"
        for index, student in enumerate(self.students):
            check_alike(self.template, student, (who, f"student {index + 1}"))
        check_filters(self.method, list(self.template.infos))


@dataclass
class Written:
    """What a merge wrote: how many tensors took which branch, and the CRC-32 of each as it was in memory."""

    branches: Counter[str] = field(default_factory=Counter)
    digests: dict[str, int] = field(default_factory=dict)


def write_merged(order: MergeOrder, folder: Path, scratch: Path) -> Written:
    """Write the merged model's folder and return what was written.

    Shards are made in `scratch`, where an interrupted merge finds those that were whole. The same inputs give the same bytes.
    """
    order.check()
    infos = order.infos()
    shards = plan_shards(infos, order.max_shard_bytes)
    by_name = {location.name: location for location in locations(list(infos))}
    counter = bar("merging", len(infos), "tensors")
    written = Written()
    scratch.mkdir(parents=True, exist_ok=True)
    for file, names in zip(shard_names(len(shards)), shards, strict=True):
        record = scratch / f"{file}.json"
        known = json.loads(record.read_text()) if record.exists() and (scratch / file).exists() else {}
        if set(known.get("digests", ())) == set(names):
            branches, digests = Counter(known["branches"]), known["digests"]
            counter.advance(len(names))
            note(f"{file} is there from an interrupted run")
        else:
            branches = Counter()
            # a shard that a later run takes for whole must have reached the disk; a single one is never taken
            digests = write_shard(
                scratch / file,
                {name: infos[name] for name in names},
                lambda name, branches=branches: _merged_chunks(order, by_name[name], branches),
                on_written=counter.advance,
                is_synced=len(shards) > 1,
            )
            if len(shards) > 1:
                write_synced(record, json.dumps({"branches": branches, "digests": digests}))
        written.branches += branches
        written.digests |= digests
    folder.mkdir(parents=True, exist_ok=True)
    for file in shard_names(len(shards)):
        os.replace(scratch / file, folder / file)
    write_index(folder, shards, infos)
    _write_config(order, folder)
    shutil.rmtree(scratch)
    return written


def _merged_chunks(order: MergeOrder, location: TensorLocation, branches: Counter[str]) -> Iterator[Tensor]:
    """Yield the elements of one merged tensor while they are written; the tensors they come from go with the last."""
    tensors = tuple(student.read(location.name) for student in order.students)
    if not tensors[0].is_floating_point():
        if not all(torch.equal(tensors[0], other) for other in tensors[1:]):
            raise ValueError(
                f"{location.name} holds whole numbers that differ between the students: they cannot be merged"
            )
        branches["copied"] += 1
        yield tensors[0]
        return
    base = order.base.read(location.name) if order.base and order.method.needs_base else None
    merged = order.method(TensorGroup(location, tensors, base))
    branches[merged.branch] += 1
    yield from merged.chunks


def _write_config(order: MergeOrder, folder: Path) -> None:
    source = order.template.folder
    copy_tokenizer(source, folder)
    for name in ("config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    if order.dtype is not None:
        config = json.loads((folder / "config.json").read_text())
        config.pop("torch_dtype", None)
        config["dtype"] = str(order.dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
