"""Tensors that a file holds in pieces, as experts one by one, and a model joined. Both forms, one tensor at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.compressors.models.blocks import decoder_blocks
from attar.stages.artifacts.model.load_report import read_model
from attar.stages.artifacts.model.tensor_files import TensorInfo, file_infos

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Joined tensors whose pieces are held while they are written: those of one block's experts follow each other.
NUM_HELD = 4


def joined_tensors(
    folder: Path, dtype: torch.dtype | str, skeleton: PreTrainedModel, infos: Mapping[str, TensorInfo], changes: Path
) -> dict[str, TensorInfo]:
    """Return the tensors that no file holds under their names, joined by transformers into files beside `changes`.

    It does so as it loads, for what a device map sends to the disk. Nothing is written where every name is there.
    """
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    blocks = decoder_blocks(skeleton)
    if all(names[id(parameter)] in infos for parameter in blocks.parameters()):
        return {}
    target = changes.with_name(f"{changes.name}.joined")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    prefix = next(name for name, module in skeleton.named_modules() if module is blocks)
    inside = {id(tensor) for tensor in blocks.parameters()}
    outside = {name.rpartition(".")[0] for name, tensor in skeleton.named_parameters() if id(tensor) not in inside}
    device_map = {prefix: "disk", **dict.fromkeys(sorted(outside), "cpu")}
    read_model(folder, dtype, device_map=device_map, offload_folder=target)
    joined = {name: info for path in sorted(target.glob("*.safetensors")) for name, info in file_infos(path).items()}
    return joined | _renamed(skeleton, infos, joined)


def _renamed(
    skeleton: PreTrainedModel, infos: Mapping[str, TensorInfo], joined: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Return the tensors that are stored whole, under a name that an earlier transformers gave them."""
    renamed = {}
    for name, tensor in skeleton.named_parameters():
        if name not in infos and name not in joined:
            stored = list(_stored_form(skeleton, {name: tensor}))
            if len(stored) == 1 and stored[0] in infos:
                renamed[name] = replace(infos[stored[0]], key=stored[0])
    return renamed


@dataclass
class StoredPieces:
    """What transformers writes for each tensor of a model: the tensor itself, or its pieces under their names.

    `shapes`: all pieces without numbers. `sources`: the tensor that each comes from.
    """

    model: PreTrainedModel
    shapes: dict[str, Tensor]
    sources: dict[str, str]
    _held: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> StoredPieces:
        """Raise ValueError where a piece is made of several tensors, which cannot be written one after the other."""
        empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        shapes: dict[str, Tensor] = {}
        sources: dict[str, str] = {}
        for name, tensor in empty.items():
            pieces = _stored_form(model, {name: tensor})
            shapes |= pieces
            sources |= dict.fromkeys(pieces, name)
        whole = _stored_form(model, empty)
        if {name: tensor.shape for name, tensor in whole.items()} != {
            name: tensor.shape for name, tensor in shapes.items()
        }:
            odd = sorted(whole.keys() ^ shapes.keys())
            raise ValueError(
                f"{type(model).__name__}: {(odd or ['a tensor'])[0]} is stored as a part of several tensors; accepted: in_memory 'model'"
            )
        return StoredPieces(model, shapes, sources)

    def piece(self, name: str, numbers: Callable[[str], Tensor]) -> Tensor:
        """Return one piece. `numbers` reads the tensor that it comes from."""
        source = self.sources[name]
        if source == name:
            return numbers(name)
        if source not in self._held:
            while len(self._held) >= NUM_HELD:
                self._held.pop(next(iter(self._held)))
            self._held[source] = _stored_form(self.model, {source: numbers(source)})
        return self._held[source][name]


def _stored_form(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion  # a second that a plan need not wait for

    return revert_weight_conversion(model, tensors)
