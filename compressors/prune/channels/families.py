"""The channels of a classifier by its family. A vision transformer's are heads and feed-forward channels, alike in every block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attar.compressors.prune.channels.channel_map import ChannelMap, Counts, Walk, Width
from attar.compressors.prune.channels.mobile import mobile_map
from attar.compressors.prune.channels.staged import convnext_map, residual_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS, CHANNELS = "heads", "channels"


def channel_map(model: PreTrainedModel) -> ChannelMap:
    """Return which channels of a classifier come and go together. Raises ValueError for a family whose config cannot say fewer."""
    family = str(model.config.model_type)
    if family not in MAPS:
        raise ValueError(f"{type(model).__name__}: its config cannot say narrower blocks; accepted: {', '.join(MAPS)}")
    return MAPS[family](model)


def _vit_map(model: Any) -> ChannelMap:
    walk = Walk(model)
    attention, mlp = model.base_model.layers[0].attention, model.base_model.layers[0].mlp
    num_heads, num_channels, head_dim = attention.num_attention_heads, mlp.fc1.out_features, attention.head_dim
    walk.widths[HEADS], walk.widths[CHANNELS] = Width(num_heads, kind="heads"), Width(num_channels)
    for index, layer in enumerate(model.base_model.layers):
        heads = walk.space(f"block {index} heads", num_heads, lambda values: values[HEADS], head_dim)
        for matrix in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj):
            walk.matrix(matrix, "", heads)
        walk.matrix(layer.attention.o_proj, heads, "")
        channels = walk.space(f"block {index} channels", num_channels, lambda values: values[CHANNELS])
        walk.matrix(layer.mlp.fc1, "", channels)
        walk.matrix(layer.mlp.fc2, channels, "")

    def tell(config: Any, values: Counts) -> None:
        config.intermediate_size = values[CHANNELS]
        if values[HEADS] != num_heads:  # which no longer make the hidden size together
            config.num_attention_heads, config.head_dim = values[HEADS], head_dim

    return walk.whole(tell)


# By transformers' name of the family. Each is tried: cut, written, loaded, exported.
MAPS: dict[str, Callable[[Any], ChannelMap]] = {
    "resnet": residual_map,
    "regnet": residual_map,
    "convnext": convnext_map,
    "convnextv2": convnext_map,
    "vit": _vit_map,
    "efficientnet": mobile_map,
}
