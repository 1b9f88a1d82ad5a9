"""Say in a config that blocks are gone. Lists, lists of indices, counts and per-block entries are rewritten for those that stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Lists as long as the blocks by chance: they belong to the whole model.
WHOLE_MODEL_LISTS = ("architectures", "keys_to_ignore_at_inference", "block_types", "time_step_limit", "summary_idxs")
# Lists of block indices, and the index that they give the first block.
INDEX_LISTS = {
    "attn_layer_indices": 0,
    "cross_attention_layers": 0,
    "full_attn_idxs": 0,
    "hybrid_layer_ids": 0,
    "local_layer_ids": 0,
    "mlp_only_layers": 0,
    "moe_layers": 0,
    "ple_layer_ids": 1,
}
# "the first k blocks", "the last k blocks", and the index of the last block of a range
COUNTS_FROM_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "max_window_layers")
COUNTS_FROM_LAST = ("num_kv_shared_layers",)
LAST_INDICES = ("moe_layer_end_index",)
# Blocks of a hybrid that attend, by the words of lists with an entry a block.
ATTENDING = ("attention", "full_attention", "sliding_attention", "hybrid", "hybrid_sliding", "*")
# A block that reads what an earlier one has made for it, where a list says so: glm_moe_dsa's indexer_types, for one.
SHARED = "shared"


def per_block_settings(config: Any, num_blocks: int) -> dict[str, list[Any] | tuple[Any, ...]]:
    """Return the lists of a config with one entry a block: layer_types, no_rope_layers and whatever a future family adds."""
    return {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == num_blocks and not _is_of_the_model(name)
    }


def cut_config(config: Any, num_blocks: int, kept_blocks: Sequence[int]) -> None:
    """Rewrite a config in place for the blocks `kept_blocks`, ascending. What a formula derives from the index is left as it is.

    Raises ValueError when a kept block reads what a removed one made for it.
    """
    _refuse_lost_sources(config, num_blocks, kept_blocks)
    _spell_out_steps(config, num_blocks)
    rewritten = _counts(config, num_blocks, kept_blocks)
    rewritten |= {
        name: [value[index] for index in kept_blocks] for name, value in per_block_settings(config, num_blocks).items()
    }
    rewritten |= {
        name: [new + first for new, old in enumerate(kept_blocks) if old + first in getattr(config, name)]
        for name, first in INDEX_LISTS.items()
        if isinstance(getattr(config, name, None), list | tuple)
    }
    if "attention_layers" in rewritten and hasattr(config, "attention_types"):
        # GPT-Neo says the list once more, in short
        rewritten["attention_types"] = [[rewritten["attention_layers"], 1]]
    own = vars(config)
    for name, value in rewritten.items():
        if name in own or not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, value)
    if isinstance(getattr(config, "scale_depth", None), int | float):
        # MiniCPM adds scale_depth / sqrt(number of blocks) of each part
        config.scale_depth *= math.sqrt(len(kept_blocks) / num_blocks)
    overrides = _overrides(config)
    config.num_hidden_layers = len(kept_blocks)
    if overrides:
        config.per_layer_config = {new: overrides[old] for new, old in enumerate(kept_blocks) if old in overrides}


def check_attending(config: Any, num_blocks: int, kept_blocks: Sequence[int]) -> None:
    """Raise ValueError where a hybrid would lose its last block that attends: its cache and positions are counted there."""
    for entries in per_block_settings(config, num_blocks).values():
        attending = [index for index, entry in enumerate(entries) if entry in ATTENDING]
        if attending and len(attending) < num_blocks and not set(attending) & set(kept_blocks):
            raise ValueError(
                f"block {attending[-1]} would be the last that attends to go; a hybrid keeps one of {', '.join(map(str, attending))}"
            )


def _is_of_the_model(name: str) -> bool:
    return (
        name in WHOLE_MODEL_LISTS or name in INDEX_LISTS or name.endswith(("token_id", "token_ids")) or name[0] == "_"
    )


def _spell_out_steps(config: Any, num_blocks: int) -> None:
    """Write Qwen's "experts in each second block" as the list of blocks without any, which can be renumbered."""
    step = getattr(config, "decoder_sparse_step", None)
    if not isinstance(step, int) or step <= 1 or not isinstance(getattr(config, "mlp_only_layers", None), list | tuple):
        return
    config.mlp_only_layers = [
        index for index in range(num_blocks) if index in config.mlp_only_layers or (index + 1) % step != 0
    ]
    config.decoder_sparse_step = 1


def _counts(config: Any, num_blocks: int, kept_blocks: Sequence[int]) -> dict[str, Any]:
    values = {name: getattr(config, name, None) for name in (*COUNTS_FROM_FIRST, *COUNTS_FROM_LAST, *LAST_INDICES)}
    counts: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if name in COUNTS_FROM_FIRST:
            counts[name] = sum(index < value for index in kept_blocks)
        elif name in COUNTS_FROM_LAST:
            counts[name] = sum(index >= num_blocks - value for index in kept_blocks)
        elif value >= 0:
            counts[name] = sum(index <= value for index in kept_blocks) - 1
    return counts


def _overrides(config: Any) -> dict[int, dict[str, Any]]:
    """Return what single blocks have otherwise than the config says of all, by index (transformers' per_layer_config)."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    return {int(index): values for index, values in config.to_dict()["per_layer_config"].items()}


def _refuse_lost_sources(config: Any, num_blocks: int, kept_blocks: Sequence[int]) -> None:
    for reader, source in _sources(config, num_blocks).items():
        if reader in kept_blocks and source not in kept_blocks:
            raise ValueError(
                f"block {reader} reads what block {source} made for it; without {source}, {reader} cannot stay"
            )


def _sources(config: Any, num_blocks: int) -> dict[int, int]:
    """Return, for each block that reads another's keys and values or chosen positions, which one that is."""
    sources = {}
    for entries in per_block_settings(config, num_blocks).values():
        if SHARED in entries:
            makers = [index for index, entry in enumerate(entries) if entry != SHARED]
            sources |= {
                index: max(maker for maker in makers if maker < index)
                for index, entry in enumerate(entries)
                if entry == SHARED and any(maker < index for maker in makers)
            }
    num_shared, kinds = getattr(config, "num_kv_shared_layers", 0) or 0, getattr(config, "layer_types", None) or []
    if num_shared and len(kinds) == num_blocks:
        first = num_blocks - num_shared
        for index in range(first, num_blocks):
            makers = [maker for maker in range(first) if kinds[maker] == kinds[index]]
            sources |= {index: makers[-1]} if makers else {}
    return sources
