"""Ask, before anything is computed, whether a family's config can say which blocks are left. Build that model without memory and look."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.compressors.models.blocks import INDEX_NAMES, block_tables, check_removal, decoder_blocks
from attar.compressors.models.config_cut import check_attending, cut_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Settings by which a config derives a block's kind from its index.
FORMULAS = re.compile(r"period|offset|pattern|interval|freq|every|sparse_step|block_types")
# What a module holds of its own surroundings, not of its kind.
NOT_ITS_KIND = {"training", "gradient_checkpointing", "num_hidden_layers", *INDEX_NAMES}


def check_cut(model: PreTrainedModel, removed: Sequence[int]) -> None:
    """Raise ValueError unless a model built from the cut config has the kept blocks: their kinds, their settings, their sizes."""
    blocks = decoder_blocks(model)
    check_removal(len(blocks), removed)
    kept_blocks = [index for index in range(len(blocks)) if index not in set(removed)]
    config = copy.deepcopy(model.config)
    family = type(model).__name__
    try:
        check_attending(config, len(blocks), kept_blocks)
        cut_config(config, len(blocks), kept_blocks)
        with torch.device("meta"):
            skeleton = type(model)(as_read(config))
        if getattr(model, "pooler", skeleton) is None:  # an encoder that came without the part, which nothing reads
            skeleton.pooler = None  # type: ignore[assignment]
        skeleton_blocks = decoder_blocks(skeleton)
    except Exception as error:  # a config class may raise anything
        raise ValueError(f"{family}: its config cannot say that {_named(removed)}: {_line(error)}") from error
    for new, old in enumerate(kept_blocks):
        difference = _difference(blocks[old], skeleton_blocks[new])
        if difference:
            raise ValueError(
                f"{family}: its config cannot say that {_named(removed)}: block {old} would come back as block {new}, "
                f"where {difference}{_formulas(model.config)}"
            )
    _check_rest(model, skeleton, kept_blocks, f"{family}: its config cannot say that {_named(removed)}")


def as_read(config: PretrainedConfig) -> PretrainedConfig:
    """Return a config as a later load reads it from its file: settings that follow from others are derived anew."""
    return type(config).from_dict(json.loads(config.to_json_string(), object_hook=_number))


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and stored buffers by name, those that are tied under each of their names."""
    stored = model.state_dict().keys()
    buffers = {name: tensor for name, tensor in model.named_buffers() if name in stored}
    return dict(model.named_parameters(remove_duplicate=False)) | buffers


def put_tensors(model: nn.Module, skeleton: nn.Module, cut: Mapping[int, nn.Parameter], noted: Sequence[str]) -> None:
    """Put cut tensors, by the id of the whole one, wherever that stands: what was tied stays tied.

    `noted`: what modules note of their sizes when they are built; they are told what the skeleton's note.
    """
    skeletons = dict(skeleton.named_modules())
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in cut:
                module._parameters[key] = cut[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None and id(buffer) in cut:
                module._buffers[key] = cut[id(buffer)].data
        for key in noted:
            if isinstance(vars(module).get(key), int | None) and key in vars(module):
                setattr(module, key, getattr(skeletons[name], key))


def _number(value: dict[str, Any]) -> Any:
    """Return a number of a config. Infinity is written as {"__float__": "Infinity"}: JSON has no word for it."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def _difference(block: nn.Module, skeleton_block: nn.Module) -> str:
    """Return the first thing in which two blocks differ other than their numbers, empty when there is none."""
    modules, others = dict(block.named_modules()), dict(skeleton_block.named_modules())
    for name in [*modules, *others]:
        where = name or "the block"
        module, other = modules.get(name), others.get(name)
        if module is None or other is None:
            return f"{where} is {_name(other)}, not {_name(module)}"
        if type(module) is not type(other):
            return f"{where} is {_name(other)}, not {_name(module)}"
        settings, told_settings = _settings(module), _settings(other)
        for key in settings:
            if key in told_settings and not _is_same(settings[key], told_settings[key]):
                return f"{name + '.' if name else ''}{key} is {told_settings[key]}, not {settings[key]}"
    shapes, told_shapes = _shapes(block), _shapes(skeleton_block)
    for name in [*shapes, *told_shapes]:
        if shapes.get(name) != told_shapes.get(name):
            return f"{name} is {told_shapes.get(name)}, not {shapes.get(name)}"
    return ""


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):  # one that was computed again may end in another digit
        return math.isclose(value, other, rel_tol=1e-6)
    return type(value) is type(other) and value == other


def _check_rest(model: PreTrainedModel, skeleton: PreTrainedModel, kept_blocks: Sequence[int], refusal: str) -> None:
    """Compare what lies outside the blocks; tables with a piece a block shrink with them."""
    num_blocks = len(decoder_blocks(model))
    pieces = {f"{name}.weight": dim for name, _, dim in block_tables(model)}
    shapes, skeleton_outside = _outside(model), _outside(skeleton)
    for name in pieces.keys() & shapes.keys():
        size = list(shapes[name])
        size[pieces[name]] = size[pieces[name]] // num_blocks * len(kept_blocks)
        shapes[name] = tuple(size)
    for name in [*shapes, *skeleton_outside]:
        if shapes.get(name) != skeleton_outside.get(name):
            raise ValueError(f"{refusal}: {name} would be {skeleton_outside.get(name)}, not {shapes.get(name)}")


def _outside(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    inside = {id(tensor) for tensor in decoder_blocks(model).parameters()}
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters() if id(tensor) not in inside}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _settings(module: nn.Module) -> Mapping[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and name not in NOT_ITS_KIND and isinstance(value, bool | int | float | str | None)
    }


def _formulas(config: Any) -> str:
    parts = [f"{name} {value}" for name, value in config.to_dict().items() if FORMULAS.search(name) and value]
    return f"; it goes by {', '.join(parts)}" if parts else ""


def _name(module: nn.Module | None) -> str:
    return "nothing" if module is None else type(module).__name__


def _named(removed: Sequence[int]) -> str:
    several = len(removed) > 1
    return f"block{'s' if several else ''} {', '.join(map(str, removed))} {'are' if several else 'is'} gone"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
