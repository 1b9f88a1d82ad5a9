"""Load and write a model folder one decoder block at a time, for models larger than memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import Pager, page_blocks
from attar.compressors.models.row_products import take_fast_paths
from attar.stages.artifacts.model.joined_tensors import StoredPieces, joined_tensors
from attar.stages.artifacts.model.load_report import read_model, refuse_not_finite
from attar.stages.artifacts.model.tensor_files import (
    TensorInfo,
    file_infos,
    plan_shards,
    read_numbers,
    shard_names,
    tensor_infos,
    write_index,
    write_shard,
)
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# As transformers cuts what it saves.
MAX_SHARD_BYTES = 50 * 10**9


@dataclass
class FolderStore:
    """Tensors of a folder's safetensors files. What is written lies in `changes`, a file a tensor, and is read from there afterwards."""

    infos: Mapping[str, TensorInfo]
    changes: Path
    _changed: dict[str, TensorInfo] = field(default_factory=dict)
    _finite: set[str] = field(default_factory=set)

    @staticmethod
    def over(infos: Mapping[str, TensorInfo], changes: Path) -> FolderStore:
        """Return a store without changes. What an interrupted run left in the folder `changes` is of another walk, and goes."""
        shutil.rmtree(changes, ignore_errors=True)
        return FolderStore(infos, changes)

    def layered(self, name: str) -> FolderStore:
        """Return a store that reads what this one reads now. Its changes lie in the folder `name` beside this one's."""
        return FolderStore.over({**self.infos, **self._changed}, self.changes.with_name(name))

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a tensor is stored in."""
        return self._info(name).dtype

    def read(self, name: str) -> Tensor:
        """Return a tensor in memory of its own. Raises ValueError as `read_into` does."""
        tensor = torch.empty(self._info(name).shape, dtype=self.dtype(name))
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Fill a tensor with the numbers of one in a file. Raises ValueError for NaN or an infinity."""
        info = self._info(name)
        read_numbers(name, info, tensor)
        if name not in self._finite:
            refuse_not_finite(info.path.parent, {name: tensor})
            self._finite.add(name)

    def write(self, name: str, tensor: Tensor) -> None:
        """Keep a changed tensor. Its file is replaced, not overwritten: a run may be killed in between."""
        self.changes.mkdir(parents=True, exist_ok=True)
        path, part = self.changes / f"{name}.safetensors", self.changes / f"{name}.part"
        save_file({name: tensor.cpu().contiguous()}, part)
        part.replace(path)
        self._changed[name] = file_infos(path)[name]
        self._finite.discard(name)

    def _info(self, name: str) -> TensorInfo:
        return self._changed.get(name) or self.infos[name]


@dataclass(frozen=True)
class Pages:
    """Where changed blocks lie, and how many bytes of a model may stay in memory beside the block in use."""

    changes: Path
    room_bytes: float = 0.0


def load_paged(folder: Path, dtype: torch.dtype | str, device: torch.device, pages: Pages) -> PreTrainedModel:
    """Load a safe model folder with one block's weights in memory at a time, or those that have room. All else of it is there.

    It computes what `load_model` gives, to the bit, and can be changed, but not trained. Raises ValueError as `load_model` does.
    """
    skeleton = read_model(folder, dtype, device_map="meta")  # its report refuses what is not the whole model
    infos = tensor_infos(folder)
    joined = joined_tensors(folder, dtype, skeleton, infos, pages.changes)
    store = FolderStore.over(infos | joined, pages.changes)
    model = _without_weights(skeleton)
    dtypes = {name: tensor.dtype for name, tensor in skeleton.state_dict(keep_vars=True).items()}
    in_blocks = {id(parameter) for parameter in decoder_blocks(model).parameters()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in in_blocks:
            _put(model, name, torch.empty_like(tensor, dtype=dtypes[name], device="meta"))
        elif name in store.infos:
            _put(model, name, store.read(name).to(device, dtypes[name], copy=True))
    model.tie_weights()
    model = model.eval().requires_grad_(False)
    take_fast_paths(model, dtype)
    outside_bytes = sum(tensor.nbytes for tensor in _distinct(model).values() if not tensor.is_meta)
    page_blocks(model, store, device, max(0.0, pages.room_bytes - outside_bytes))
    return model


def write_paged(model: PreTrainedModel, pager: Pager, folder: Path) -> None:
    """Write a paged model's weights, config and generation settings as transformers would, one tensor after the other."""
    pager.leave()
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    in_store = pager.stored_names(decoder_blocks(model))
    tensors = _distinct(model)
    pieces = StoredPieces.of(model, tensors)
    infos = {name: TensorInfo(tuple(piece.shape), piece.dtype, folder) for name, piece in pieces.shapes.items()}
    shards = plan_shards(infos, MAX_SHARD_BYTES)
    counter = bar("writing", len(infos), "tensors")

    def numbers(name: str) -> Tensor:
        tensor = tensors[name]
        return pager.store.read(in_store[id(tensor)]) if tensor.is_meta else tensor.cpu()

    def elements(name: str) -> Iterable[Tensor]:
        yield pieces.piece(name, numbers)

    for file, names in zip(shard_names(len(shards)), shards, strict=True):
        write_shard(folder / file, {name: infos[name] for name in names}, elements, on_written=counter.advance)
    write_index(folder, shards, infos)


def _without_weights(skeleton: PreTrainedModel) -> PreTrainedModel:
    """Return the model as its class builds it: parameters without memory, and the tables that it computes itself."""
    from accelerate import init_empty_weights  # a second that a plan need not wait for

    with init_empty_weights(include_buffers=False):
        model = type(skeleton)._from_config(skeleton.config, dtype=skeleton.dtype)
    model.generation_config = skeleton.generation_config
    return model


def _put(model: PreTrainedModel, name: str, tensor: Tensor) -> None:
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[key] = tensor


def _distinct(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors that a file holds. Of tied ones the first, which is the embedding."""
    seen: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        seen.setdefault(id(tensor), name)
    return {name: tensors[name] for name in seen.values()}
