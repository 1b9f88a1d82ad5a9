"""The spaces of nets in stages: ResNet, RegNet, ConvNeXt. Their configs say a width a stage, from which those inside a block follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from attar.compressors.images.classifier import last_layer
from attar.compressors.prune.channels.channel_map import ChannelMap, Counts, Walk

STEM = "stem"
# A bottleneck's inner width is this part of its stage's.
REDUCTION = 4


def stage_name(index: int) -> str:
    """Return what the width of a stage is called."""
    return f"stage {index}"


def residual_map(model: Any) -> ChannelMap:
    """Return the spaces of a ResNet or a RegNet. A first stage that adds the stem as it is shares the stem's channels."""
    walk, base, config = Walk(model), model.base_model, model.config
    embedder = base.embedder.embedder if hasattr(base.embedder, "embedder") else base.embedder
    layers = [layer for stage in base.encoder.stages for layer in stage.layers]
    stream = walk.stream(STEM, embedder.convolution.out_channels, _unit(config, layers[0]) if _adds(layers[0]) else 1)
    _convolve(walk, embedder, "", stream)
    for stage_index, stage in enumerate(base.encoder.stages):
        for index, layer in enumerate(stage.layers):
            before = stream
            if not _adds(layer):
                width = layer.layer[-1].convolution.out_channels
                stream = walk.stream(stage_name(stage_index), width, _unit(config, layer))
                _convolve(walk, layer.shortcut, before, stream)
            _inside(walk, layer, f"{stage_name(stage_index)} block {index}", before, stream, config)
    walk.matrix(last_layer(model), stream, "")

    def tell(config: Any, values: Counts) -> None:
        sizes = [values.get(stage_name(index), values[STEM]) for index in range(len(config.hidden_sizes))]
        if stage_name(0) in values and sizes[0] == values[STEM] and not config.downsample_in_first_stage:
            raise ValueError(f"a stem as wide as stage 0, {sizes[0]}, has no projection between them")
        config.embedding_size, config.hidden_sizes = values[STEM], sizes

    return walk.whole(tell)


def convnext_map(model: Any) -> ChannelMap:
    """Return the spaces of a ConvNeXt, first or second version. Inside a block are four times the stage's channels."""
    walk, base = Walk(model), model.base_model
    stream = walk.stream(stage_name(0), base.embeddings.patch_embeddings.out_channels)
    walk.matrix(base.embeddings.patch_embeddings, "", stream)
    walk.vectors(base.embeddings.layernorm, stream, "layer")
    for stage_index, stage in enumerate(base.encoder.stages):
        before = stream
        if len(stage.downsampling_layer):
            norm, convolution = stage.downsampling_layer
            stream = walk.stream(stage_name(stage_index), convolution.out_channels)
            walk.vectors(norm, before, "layer")
            walk.matrix(convolution, before, stream)
        for index, layer in enumerate(stage.layers):
            _widened(walk, layer, f"{stage_name(stage_index)} block {index}", stream)
    walk.vectors(base.layernorm, stream, "layer")
    walk.matrix(last_layer(model), stream, "")

    def tell(config: Any, values: Counts) -> None:
        config.hidden_sizes = [
            values[_stage_of(values, index)] for index in range(len(config.hidden_sizes))
        ]  # a stage without a projection is as wide as the one before it

    return walk.whole(tell)


def _stage_of(values: Counts, index: int) -> str:
    return next(stage_name(earlier) for earlier in range(index, -1, -1) if stage_name(earlier) in values)


def _widened(walk: Walk, layer: Any, name: str, stream: str) -> None:
    ratio = layer.pwconv1.out_features // layer.pwconv1.in_features
    inner = walk.space(f"{name} inside", layer.pwconv1.out_features, lambda values: ratio * values[stream])
    walk.matrix(layer.dwconv, stream, stream)
    walk.vectors(layer.layernorm, stream, "layer")
    walk.matrix(layer.pwconv1, stream, inner)
    if hasattr(layer, "grn"):
        walk.vectors(layer.grn, inner, "response")
    walk.matrix(layer.pwconv2, inner, stream)
    if getattr(layer, "layer_scale_parameter", None) is not None:
        walk.vector(layer, "layer_scale_parameter", stream)


def _inside(walk: Walk, layer: Any, name: str, into: str, out: str, config: Any) -> None:
    """Note the convolutions of a block one after the other, each reading what the one before it gives."""
    read, parts = into, list(layer.layer)
    group = _group(config, layer)
    for index, part in enumerate(parts):
        if hasattr(part, "attention"):
            _gate(walk, part, f"{name} gate", read, into)
            continue
        convolution = part.convolution
        if part is parts[-1]:
            given = out
        elif convolution.groups > 1:  # a group reads the group of its own number alone
            given = read
        else:
            count = _inner(out, convolution.out_channels // group, walk.spaces[out].num_units)
            given = walk.space(f"{name} inside {index}", convolution.out_channels // group, count, group)
        _convolve(walk, part, read, given)
        read = given


def _inner(stream: str, num_units: int, num_channels: int) -> Callable[[Counts], int]:
    """Return the count of units whose number is a fixed part of a stream's channels."""
    part = num_channels // num_units
    return lambda values: values[stream] // part


def _gate(walk: Walk, gate: Any, name: str, space: str, into: str) -> None:
    """Note a squeeze-and-excite gate on a space: a quarter as wide as what its block reads."""
    reduce, expand = gate.attention[0], gate.attention[2]
    inner = walk.space(name, reduce.out_channels, lambda values: round(values[into] / 4))
    walk.matrix(reduce, space, inner)
    walk.matrix(expand, inner, space)


def _convolve(walk: Walk, part: Any, into: str, out: str) -> None:
    walk.matrix(part.convolution, into, out)
    walk.vectors(part.normalization, out)


def _adds(layer: Any) -> bool:
    return isinstance(layer.shortcut, nn.Identity)


def _group(config: Any, layer: Any) -> int:
    """Return how many channels go together inside a block: of grouped convolutions, a group."""
    groups = [part.convolution.groups for part in layer.layer if hasattr(part, "convolution")]
    return config.groups_width if max(groups) > 1 else 1


def _unit(config: Any, layer: Any) -> int:
    """Return what a stage's width is a multiple of."""
    is_bottleneck = getattr(config, "layer_type", "") == "bottleneck"
    return REDUCTION if is_bottleneck else _group(config, layer)
