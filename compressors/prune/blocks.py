"""Find a causal model's decoder blocks and remove some, leaving a model that saves, reloads and decodes like any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of decoder blocks, found by its length. Raises ValueError when the model has none or several."""
    num_blocks = model.config.num_hidden_layers
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_blocks]
    if num_blocks == 1:  # one block: tell it from other one-element lists by what it contains
        found = [m for m in found if any("attn" in name or "attention" in name for name, _ in m.named_modules())]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__}: {len(found)} lists of {num_blocks} blocks found, one expected; not a plain decoder"
        )
    return found[0]


def remove_blocks(model: PreTrainedModel, removed: Sequence[int]) -> None:
    """Remove the blocks with the given zero-based indices, in place.

    Renumbers `layer_idx` (a KV cache is addressed by it, https://github.com/huggingface/transformers/issues/30508), sets
    `num_hidden_layers`, and cuts every per-block list of the config, so that the saved folder loads as a plain model.
    Raises ValueError for indices out of range or repeated, for removing all, and for models whose blocks compute with their index.
    """
    blocks = decoder_blocks(model)
    check_removal(len(blocks), removed)
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        raise ValueError("scale_attn_by_inverse_layer_idx: a block's attention depends on its index; it cannot move")
    kept = [index for index in range(len(blocks)) if index not in set(removed)]
    _cut_config(model.config, len(blocks), kept)
    for new_index, old_index in enumerate(kept):
        for module in blocks[old_index].modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new_index  # type: ignore[assignment]
    kept_blocks = [blocks[index] for index in kept]
    del blocks[len(kept) :]
    for index, block in enumerate(kept_blocks):
        blocks[index] = block


@contextmanager
def only_blocks(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """Inside, the model has the blocks with these indices alone, in their order, as `remove_blocks` leaves it; afterwards it is whole."""
    blocks, config = decoder_blocks(model), model.config
    everything, settings = list(blocks), dict(vars(config))
    try:
        remove_blocks(model, sorted(set(range(len(everything))) - set(kept)))
        yield
    finally:
        vars(config).update(settings)
        for index, block in enumerate(everything):
            if index < len(blocks):
                blocks[index] = block
            else:
                blocks.append(block)
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = index  # type: ignore[assignment]


def per_block_settings(config: Any, num_blocks: int) -> dict[str, list[Any]]:
    """Return the lists of a config with one entry a block: layer_types, no_rope_layers and whatever a future family adds."""
    return {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == num_blocks}


def check_removal(num_blocks: int, removed: Sequence[int]) -> None:
    """Raise ValueError unless `removed` are distinct indices of `num_blocks` blocks and leave at least one."""
    for index in removed:
        if not 0 <= index < num_blocks:
            raise ValueError(f"block {index} does not exist: the model has {num_blocks} blocks, 0 to {num_blocks - 1}")
    if len(set(removed)) != len(removed):
        raise ValueError(f"blocks {list(removed)}: an index is repeated")
    if len(removed) >= num_blocks:
        raise ValueError(f"removing {len(removed)} of {num_blocks} blocks leaves none; remove at most {num_blocks - 1}")


def _cut_config(config, num_blocks: int, kept: list[int]) -> None:
    for name, value in per_block_settings(config, num_blocks).items():
        setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
    if getattr(config, "max_window_layers", None) is not None:
        config.max_window_layers = min(config.max_window_layers, len(kept))
