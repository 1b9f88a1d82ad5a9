"""The spaces of an EfficientNet. A width a stage, a ratio by which a stage's blocks widen, one coefficient for stem and top."""

from __future__ import annotations

from typing import Any

from attar.compressors.images.classifier import last_layer
from attar.compressors.prune.channels.channel_map import ChannelMap, Counts, Walk, Width
from attar.compressors.prune.channels.staged import STEM, stage_name

# What transformers multiplies by the coefficient: stem and top have no numbers of their own.
STEM_FILTERS, TOP_FILTERS = 32, 1280


def ratio_name(index: int) -> str:
    """Return what the ratio of a stage is called."""
    return f"ratio {index}"


def mobile_map(model: Any) -> ChannelMap:
    """Return the spaces of an EfficientNet. Depthwise convolutions and gates follow what they run over."""
    walk, base, config = Walk(model), model.base_model, model.config
    stem, top = base.embeddings.convolution.out_channels, base.encoder.top_conv.out_channels
    divisor = _divisor(config, stem, top)
    stream = walk.stream(STEM, stem, divisor)
    walk.matrix(base.embeddings.convolution, "", stream)
    walk.vectors(base.embeddings.batchnorm, stream)
    stage = -1
    for index, block in enumerate(base.encoder.blocks):
        before = stream
        if not block.projection.apply_dropout:  # the family's word for: the input is added
            stage += 1
            stream = walk.stream(stage_name(stage), block.projection.project_conv.out_channels, divisor)
            if block.expand:
                walk.widths[ratio_name(stage)] = Width(block.expand_ratio, least=2, kind="ratio")
        _block(walk, block, f"block {index}", before, stream, stage)
    coefficient = config.width_coefficient / stem

    def top_count(values: Counts) -> int:
        return filters(TOP_FILTERS, coefficient * values[STEM], divisor)

    space = walk.space("top", top, top_count)
    walk.matrix(base.encoder.top_conv, stream, space)
    walk.vectors(base.encoder.top_bn, space)
    walk.matrix(last_layer(model), space, "")
    return walk.whole(lambda config, values: _tell(config, values, coefficient * values[STEM], divisor))


def _block(walk: Walk, block: Any, name: str, into: str, out: str, stage: int) -> None:
    inner = into
    if block.expand:
        ratio = ratio_name(stage)
        width = block.expansion.expand_conv.out_channels
        inner = walk.space(f"{name} inside", width, lambda values: values[ratio] * values[into])
        walk.matrix(block.expansion.expand_conv, into, inner)
        walk.vectors(block.expansion.expand_bn, inner)
    walk.matrix(block.depthwise_conv.depthwise_conv, inner, inner)
    walk.vectors(block.depthwise_conv.depthwise_norm, inner)
    gate, share = block.squeeze_excite, walk.model.config.squeeze_expansion_ratio
    reduced = walk.space(f"{name} gate", gate.dim_se, lambda values: max(1, int(values[into] * share)))
    walk.matrix(gate.reduce, inner, reduced)
    walk.matrix(gate.expand, reduced, inner)
    walk.matrix(block.projection.project_conv, inner, out)
    walk.vectors(block.projection.project_bn, out)


def filters(number: int, coefficient: float, divisor: int) -> int:
    """Return how many channels transformers makes of a number in the config of an EfficientNet."""
    scaled = number * coefficient
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * scaled else rounded)


def _divisor(config: Any, stem: int, top: int) -> int:
    """Return the finest rounding under which stem and top are what they are."""
    given = [filters(number, config.width_coefficient, 1) for number in (STEM_FILTERS, TOP_FILTERS)]
    return 1 if given == [stem, top] else config.depth_divisor


def _tell(config: Any, values: Counts, coefficient: float, divisor: int) -> None:
    stages = [stage_name(index) for index in range(len(config.out_channels))]
    numbers = {name: _number(values[name], coefficient, divisor) for name in (STEM, *stages)}
    if filters(STEM_FILTERS, coefficient, divisor) != values[STEM]:
        raise ValueError(f"a stem of {values[STEM]} channels")
    config.in_channels = [numbers[name] for name in (STEM, *stages[:-1])]
    config.out_channels = [numbers[name] for name in stages]
    ratios = enumerate(config.expand_ratios)
    config.expand_ratios = [values.get(ratio_name(index), ratio) for index, ratio in ratios]
    config.width_coefficient, config.depth_divisor = coefficient, divisor
    config.hidden_dim = filters(TOP_FILTERS, coefficient, divisor)


def _number(width: int, coefficient: float, divisor: int) -> int:
    """Return what the config has to say for a width. Raises ValueError where no number gives it."""
    near = round(width / coefficient)
    reach = int(divisor / coefficient) + 1
    numbers = sorted(range(max(1, near - reach), near + reach + 1), key=lambda number: abs(number - near))
    for number in numbers:
        if filters(number, coefficient, divisor) == width:
            return number
    raise ValueError(f"a width of {width} under width_coefficient {coefficient:g}")
