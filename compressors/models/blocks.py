"""Find a causal model's decoder blocks and remove some, leaving a model that saves, reloads and decodes like any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attar.compressors.models.config_cut import cut_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a module calls its own number; a KV cache is addressed by it.
INDEX_NAMES = ("layer_idx", "layer_index", "layer_id", "layer_number", "block_idx", "block_index", "block_id")
# Tables outside the blocks with a piece for each of them, and the dimension in which the pieces follow each other (Gemma 3n and 4).
TABLES = {"embed_tokens_per_layer": 1, "per_layer_model_projection": 0}


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of decoder blocks, found by its length. Raises ValueError when the model has none or several."""
    num_blocks = getattr(model.config, "num_hidden_layers", None)
    if not isinstance(num_blocks, int):
        raise ValueError(f"{type(model).__name__}: its config has no num_hidden_layers; not a plain decoder")
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_blocks]
    if num_blocks == 1:  # one block: tell it from other one-element lists by what it contains
        lists = [m for m in lists if any("attn" in name or "attention" in name for name, _ in m.named_modules())]
    if len(lists) != 1:
        raise ValueError(
            f"{type(model).__name__}: {len(lists)} lists of {num_blocks} blocks found, one expected; not a plain decoder"
        )
    return lists[0]


def remove_blocks(model: PreTrainedModel, removed: Sequence[int]) -> None:
    """Remove the blocks with the given zero-based indices, in place.

    Renumbers `layer_idx` (a KV cache is addressed by it, https://github.com/huggingface/transformers/issues/30508), and cuts what the
    config and tables outside the blocks say of each. Whether a config can say what is left, `skeleton.check_cut` tells.
    Raises ValueError for indices out of range or repeated, for removing all, and for models whose blocks compute with their index.
    """
    blocks = decoder_blocks(model)
    check_removal(len(blocks), removed)
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        raise ValueError("scale_attn_by_inverse_layer_idx: a block's attention depends on its index; it cannot move")
    kept_indices = [index for index in range(len(blocks)) if index not in set(removed)]
    cut_config(model.config, len(blocks), kept_indices)
    for _, module, dim in block_tables(model):
        _cut_table(module, dim, len(blocks), kept_indices)
    for new_index, old_index in enumerate(kept_indices):
        _renumber(blocks[old_index], new_index - old_index)
    kept_blocks = [blocks[index] for index in kept_indices]
    del blocks[len(kept_indices) :]
    for index, block in enumerate(kept_blocks):
        blocks[index] = block


@contextmanager
def only_blocks(model: PreTrainedModel, kept_blocks: Sequence[int]) -> Iterator[None]:
    """Leave the model the blocks with these indices alone inside the block, as `remove_blocks` does. Afterwards it is whole."""
    blocks, config = decoder_blocks(model), model.config
    everything, settings = list(blocks), dict(vars(config))
    weights = [(module, module.weight) for _, module, _ in block_tables(model)]
    try:
        remove_blocks(model, sorted(set(range(len(everything))) - set(kept_blocks)))
        yield
    finally:
        vars(config).update(settings)
        for module, weight in weights:
            _set_table(module, weight)
        if len(blocks) < len(everything):  # not where the removal was refused
            for new_index, old_index in enumerate(sorted(kept_blocks)):
                _renumber(everything[old_index], old_index - new_index)
        for index, block in enumerate(everything):
            if index < len(blocks):
                blocks[index] = block
            else:
                blocks.append(block)


def block_tables(model: PreTrainedModel) -> list[tuple[str, Any, int]]:
    """Return the tables outside the blocks that hold a piece for each of them: (name, module, dimension of the pieces)."""
    named = ((name, name.rpartition(".")[2], module) for name, module in model.named_modules())
    return [
        (name, module, TABLES[last]) for name, last, module in named if last in TABLES and hasattr(module, "weight")
    ]


def check_removal(num_blocks: int, removed: Sequence[int]) -> None:
    """Raise ValueError unless `removed` are distinct indices of `num_blocks` blocks and leave at least one."""
    for index in removed:
        if not 0 <= index < num_blocks:
            raise ValueError(f"block {index} does not exist: the model has {num_blocks} blocks, 0 to {num_blocks - 1}")
    if len(set(removed)) != len(removed):
        raise ValueError(f"blocks {list(removed)}: an index is repeated")
    if len(removed) >= num_blocks:
        raise ValueError(f"removing {len(removed)} of {num_blocks} blocks leaves none; remove at most {num_blocks - 1}")


def _renumber(block: nn.Module, shift: int) -> None:
    for module in block.modules():
        for name in INDEX_NAMES:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, vars(module)[name] + shift)


def _cut_table(module: Any, dim: int, num_blocks: int, kept_blocks: Sequence[int]) -> None:
    pieces = module.weight.detach().chunk(num_blocks, dim=dim)
    weight = torch.cat([pieces[index] for index in kept_blocks], dim=dim)
    _set_table(module, nn.Parameter(weight, requires_grad=module.weight.requires_grad))


def _set_table(module: Any, weight: nn.Parameter) -> None:
    module.weight = weight
    if isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    else:
        module.out_features = weight.shape[0]
