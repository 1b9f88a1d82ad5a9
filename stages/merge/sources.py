"""What a merge reads, tensor by tensor. Model folders, and adapters or trained weights folded into their base on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from attar.compressors.merge.fold import ExpertPair, Pair, adapter_pairs, fold_pair, split_experts
from attar.stages.artifacts.model.folder import quiet_transformers
from attar.stages.artifacts.model.load_report import read_skeleton
from attar.stages.artifacts.model.safe_folder import refuse_unsafe
from attar.stages.artifacts.model.tensor_files import TensorInfo, file_infos, read_tensor, tensor_infos
from attar.stages.artifacts.model.weight_files import stored_dtype
from attar.stages.merge.fused_files import FusedFiles, expert_targets, has_inputs_first

if TYPE_CHECKING:
    import transformers


class Source(Protocol):
    """A model's tensors by name. Reading one gives a tensor that nobody else holds."""

    @property
    def base(self) -> FolderSource:
        """The plain folder whose config and tokenizer it has: its own, or that of the model it changes."""
        ...

    @property
    def adapter(self) -> FoldedAdapter | None:
        """The low-rank adapter that is folded in; None where there is none."""
        ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class FolderSource:
    """A plain model folder. Weights that its config ties to others are left out, in a file or not."""

    folder: Path

    def __post_init__(self) -> None:
        refuse_unsafe(self.folder)

    @property
    def base(self) -> FolderSource:
        return self

    @property
    def adapter(self) -> None:
        return None

    @cached_property
    def config(self) -> Any:
        """The folder's config."""
        from transformers import AutoConfig  # a second that a plan need not wait for

        return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    @cached_property
    def skeleton(self) -> transformers.PreTrainedModel:
        """The model without its weights: names, shapes and facts. Raises ValueError unless the files hold all of them."""
        quiet_transformers()
        return read_skeleton(self.folder)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What the config says, else the dtype that rounds none of the weights."""
        named = getattr(self.config, "dtype", None)
        if isinstance(named, torch.dtype):
            return named
        return stored_dtype(self.folder)[0]

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @cached_property
    def _infos(self) -> dict[str, TensorInfo]:
        infos = tensor_infos(self.folder)
        tied = getattr(self.skeleton, "_tied_weights_keys", None) or {}
        is_tied = bool(getattr(self.config, "tie_word_embeddings", False))
        return {name: info for name, info in infos.items() if not (is_tied and name in tied)}

    def read(self, name: str) -> Tensor:
        return read_tensor(name, self.infos[name])

    def file_name(self, parameter: str) -> str:
        """Return the name in the file of a parameter of the loaded model. Raises ValueError for one that has no place.

        They are the same but for a few families, such as GPT-NeoX, whose head is called otherwise in files.
        """
        if parameter in self.infos:
            return parameter
        state = self.skeleton.state_dict()
        strangers = [name for name, info in self.infos.items() if name not in state]
        fitting = [
            name for name in strangers if parameter in state and self.infos[name].shape == state[parameter].shape
        ]
        if len(fitting) != 1:
            raise ValueError(f"{parameter!r} has no place in the base model")
        return fitting[0]


@dataclass(frozen=True)
class FoldedAdapter:
    """A base with a low-rank adapter folded in."""

    base: FolderSource
    pairs: Mapping[str, Pair]
    scale: float
    # by the name of the fused parameter; the files may hold a tensor an expert
    experts: Mapping[str, ExpertPair]

    @classmethod
    def open(cls, base: FolderSource, folder: Path) -> FoldedAdapter:
        """Read an adapter. Raises ValueError when one of its tensors has no place in the base."""
        tensors, experts = split_experts(
            load_file(folder / "adapter_model.safetensors"), expert_targets(folder, base.skeleton)
        )
        placed = {}
        for target, pair in adapter_pairs(tensors).items():
            try:
                placed[base.file_name(target)] = pair
            except ValueError as error:
                raise ValueError(f"adapter tensor {pair.name!r} has no place in the base model") from error
        source = cls(base, placed, adapter_scale(folder), experts)
        if lost := sorted(experts.keys() - set(source._fused.owners.values())):
            raise ValueError(f"adapter tensor {experts[lost[0]].name!r} has no place in the base model")
        return source

    @property
    def adapter(self) -> FoldedAdapter:
        return self

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.base.infos

    def read(self, name: str) -> Tensor:
        weight = self.base.read(name)
        if name in self._fused.owners:
            return _added(name, weight, self._fused.read(name, self.expert_update))
        if name not in self.pairs:
            return weight
        return fold_pair(name, weight, self.pairs[name], scale=self.scale, is_transposed=self.is_transposed)

    def expert_update(self, parameter: str) -> Tensor:
        """Return what the adapter adds to a fused parameter of the loaded base, in float32."""
        shape = self.base.skeleton.get_parameter(parameter).shape
        is_transposed = has_inputs_first(self.base.skeleton, parameter)
        return self.experts[parameter].update(parameter, shape, scale=self.scale, is_transposed=is_transposed)

    @cached_property
    def _fused(self) -> FusedFiles:
        return FusedFiles(self.base.skeleton, list(self.experts), self.base.infos)

    @cached_property
    def is_transposed(self) -> bool:
        """Whether the base stores its matrices (in, out)."""
        from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

        return any(isinstance(module, Conv1D) for module in self.base.skeleton.modules())


@dataclass(frozen=True)
class FoldedWeights:
    """A base with trained weights in their places, rounded to the base's dtype."""

    base: FolderSource
    trained: Mapping[str, tuple[str, TensorInfo]]
    # of parameters that the files hold in parts, such as fused experts
    fused: FusedFiles

    @classmethod
    def open(cls, base: FolderSource, path: Path) -> FoldedWeights:
        """Read the header. Raises ValueError for a weight without a place in the base, or when all are the base's own."""
        infos = file_infos(path)
        fused = FusedFiles(base.skeleton, [name for name in infos if name not in base.infos], base.infos)
        trained = {file: (name, infos[name]) for file, name in fused.owners.items()}
        for name, info in infos.items():
            is_fused = name in fused.owners.values()
            target = name if is_fused else base.file_name(name)
            shape = tuple(base.skeleton.get_parameter(name).shape) if is_fused else base.infos[target].shape
            if shape != info.shape:
                raise ValueError(f"trained weight {name!r} {info.shape} has no place in the base model")
            trained |= {} if is_fused else {target: (name, info)}
        source = cls(base, trained, fused)
        if all(torch.equal(source.read(target), base.read(target)) for target in trained):
            raise ValueError("folding changed nothing: the trained weights are the base's own")
        return source

    @property
    def adapter(self) -> None:
        return None

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.base.infos

    def read(self, name: str) -> Tensor:
        if name not in self.trained:
            return self.base.read(name)
        own_name, info = self.trained[name]
        is_fused = name in self.fused.owners
        own = self.fused.read(name, lambda own: read_tensor(own, info)) if is_fused else read_tensor(own_name, info)
        return own.to(self.base.infos[name].dtype)


def _added(name: str, weight: Tensor, update: Tensor) -> Tensor:
    """Return weight + update, added in float32 and rounded once."""
    if not weight.is_floating_point():
        raise ValueError(f"{name} is quantized ({weight.dtype}): fold into the float model it came from")
    return (weight.float() + update).to(weight.dtype)


def adapter_scale(folder: Path) -> float:
    """Return what an adapter's B A is multiplied by: alpha / rank, rank-stabilised alpha / sqrt(rank)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])


def check_alike(first: Source, other: Source, who: tuple[str, str]) -> None:
    """Raise ValueError naming the first way in which two models differ: family, tensors, or a tensor's shape."""
    configs = [getattr(source, "config", None) for source in (first, other)]
    if None not in configs and configs[0].model_type != configs[1].model_type:  # type: ignore[union-attr]
        types = [config.model_type for config in configs]  # type: ignore[union-attr]
        raise ValueError(f"{who[1]} is a {types[1]} model, {who[0]} a {types[0]} model: they cannot be merged")
    for name in sorted(first.infos.keys() ^ other.infos.keys()):
        has, lacks = who if name in first.infos else who[::-1]
        raise ValueError(f"{has} has a tensor {name} that {lacks} has not: they cannot be merged")
    for name, info in first.infos.items():
        if other.infos[name].shape != info.shape:
            shapes = f"{info.shape} in {who[0]}, {other.infos[name].shape} in {who[1]}"
            raise ValueError(f"{name} is {shapes}: they cannot be merged")
