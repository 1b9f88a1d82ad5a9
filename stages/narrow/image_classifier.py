"""Take channels, heads and feed-forward widths out of an image classifier. What is left loads in plain transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from attar.compressors.catalogue import build
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.prune.channels.channel_map import ChannelMap, Counts
from attar.compressors.prune.channels.choose import Choice
from attar.compressors.prune.channels.cut import kept_units, narrowed
from attar.compressors.prune.channels.families import CHANNELS, HEADS, channel_map
from attar.compressors.prune.channels.gates import closed, gated
from attar.compressors.prune.channels.scores import IMAGE_WIDTH_SCORES, ImageWidthScan
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.subjects import IMAGES, form_of
from attar.stages.artifacts.dataset.original_losses import spread
from attar.stages.artifacts.images.class_order import refuse_other_order
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.images.folder import load_classifier, save_classifier
from attar.stages.artifacts.images.pixels import PixelReader, pixel_batches
from attar.stages.artifacts.images.proof import check_kept, probe_logits, prove_classifier
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.contract import Forecast
from attar.stages.narrow.config import NarrowConfig, NarrowInputs, SizeConfig
from attar.stages.narrow.passes import record_kept
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, metric, note

# Sizes that say a number of parameters, and those that say feed-forward channels, which a transformer's config alone has a number for.
BUDGETS, FEED_FORWARD = ("num_parameters", "parameter_fraction"), ("num_ffn_channels", "ffn_fraction")


def check_image_narrow(config: NarrowConfig) -> None:
    """Raise ValueError for a size, a score or a repair that an image classifier has not."""
    if config.size.equal_to_blocks:
        raise ValueError(
            f"size.equal_to_blocks is {config.size.equal_to_blocks}, but blocks of an image classifier differ in size; accepted: "
            f"{', '.join((*BUDGETS, *FEED_FORWARD))}"
        )
    if config.score not in IMAGE_WIDTH_SCORES:
        raise ValueError(
            f"score is {config.score!r}; accepted for an image classifier: {', '.join(IMAGE_WIDTH_SCORES)}"
        )
    if config.patch.kind != "none" or config.in_memory == "block":
        given = f"patch.kind is {config.patch.kind!r}" if config.patch.kind != "none" else "in_memory is 'block'"
        raise ValueError(
            f"{given}, which is for causal language models; accepted for an image classifier: neither, it learns again by finetune"
        )
    if config.spread == "ranked" and config.size.given not in BUDGETS:
        raise ValueError(
            f"spread is 'ranked', which meets a number of parameters; accepted with it: size.{' or size.'.join(BUDGETS)}"
        )
    given = sorted(config.calibration.model_fields_set)
    refuse_causal_fields(IMAGES, given, ("max_tokens", "precision"), "num_samples, batch_size")


def image_narrow_forecast(config: NarrowConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Return what a narrower classifier will be: as large as its budget, of the form that it has."""
    model = inputs["model"][0]
    check_image_narrow(config)
    refuse_other_data(model, inputs.get("data", ()))
    facts: dict[str, Any] = {name: model[name] for name in ("num_blocks", "architecture", "dtype") if name in model}
    facts |= form_of(model)
    whole = float(model.get("num_parameters", 0))
    if config.size.given in BUDGETS and (whole or config.size.num_parameters):
        facts["num_parameters"] = _budget(config.size, int(whole))
    num_flops = 6.0 * float(model.get("num_products", 0)) * config.calibration.num_samples * config.needs_gradients
    return Forecast(facts, num_flops, peak_memory_bytes=12.0 * whole, disk_bytes=stored_bytes(facts) or 4.0 * whole)


def narrow_classifier(config: NarrowConfig, inputs: NarrowInputs, content: Path) -> ImageClassifierArtifact:
    """Write a narrower classifier. Raises ValueError for sizes that its family's config cannot say, and when the proof fails.

    It must first give the logits of the whole net whose other channels are shut by hand, and give them again when it is loaded as written.
    """
    model: Any = inputs.model
    device = pick_device()
    classifier = load_classifier(model.path, "auto", device)
    channels = channel_map(classifier.model)
    choice = Choice(channels, classifier.model.config, config.size.multiple_of, _fixed(config, channels))
    budget = _budget(config.size, channels.num_parameters(channels.values)) if config.size.given in BUDGETS else 0
    values = choice.even(budget) if budget and config.spread == "even" else choice.start
    scores = _scores(config, classifier, channels, inputs)
    if config.spread == "ranked":
        values = choice.ranked(budget, scores, is_loss=IMAGE_WIDTH_SCORES[config.score].is_loss)
    units = kept_units(channels, values, scores)
    with gated(classifier.model, channels, closed(channels, units, device)):
        expected = probe_logits(classifier, model.facts, "narrow")
    narrower = ImageClassifier(narrowed(classifier.model, channels, values, units)).eval()
    check_kept(expected, narrower, model.facts, "narrow")
    expected = probe_logits(narrower, model.facts, "narrow")
    del classifier
    artifact = save_classifier(narrower, content, model.path)
    record_kept(content, {name: [stays] for name, stays in units.items()})
    del narrower
    prove_classifier(content, expected, model.facts, "narrow", device)
    left = widths_left(channels, values)
    share = artifact.facts.num_parameters / model.facts.num_parameters
    metric("parameter_fraction", share)
    note(f"{artifact.facts.num_parameters:,} parameters are left, {share:.3f} of them: {left}")
    carried = {name: model.facts[name] for name in ("license", "removed_blocks") if name in model.facts}
    return ImageClassifierArtifact.at(content, artifact.facts | {"widths": left, **carried})


def widths_left(channels: ChannelMap, values: Counts) -> str:
    """Return which widths fell, and how far, in words."""
    fell = (
        f"{name} {values[name]} of {width.value}"
        for name, width in channels.widths.items()
        if values[name] != width.value
    )
    return ", ".join(fell)


def _budget(size: SizeConfig, num_parameters: int) -> int:
    return size.num_parameters or int(size.parameter_fraction * num_parameters)


def _fixed(config: NarrowConfig, channels: ChannelMap) -> dict[str, int]:
    """Return the widths that the config says itself: heads and feed-forward channels. Raises ValueError for a net that has no such numbers."""
    fixed: dict[str, int] = {}
    given = config.size.given
    wanted = "num_removed_groups" if config.num_removed_groups else f"size.{given}" if given in FEED_FORWARD else ""
    if wanted and HEADS not in channels.widths:
        raise ValueError(
            f"{wanted} is given, but the config of this family has no number for it; accepted: size.{' or size.'.join(BUDGETS)}"
        )
    if config.num_removed_groups:
        num_heads = channels.widths[HEADS].value
        if config.num_removed_groups >= num_heads:
            raise ValueError(
                f"num_removed_groups is {config.num_removed_groups}, but a block has {num_heads} heads; accepted: at most {num_heads - 1}"
            )
        fixed[HEADS] = num_heads - config.num_removed_groups
    if given in FEED_FORWARD:
        has = channels.widths[CHANNELS].value
        step = config.size.multiple_of
        share = config.size.ffn_fraction
        left = config.size.num_ffn_channels or max(1, round(share * has / step)) * step
        if left >= has:
            raise ValueError(
                f"size.{given}: {left} of {has} channels would stay; accepted: below {has}, in multiples of {step}"
            )
        fixed[CHANNELS] = left
    return fixed


def _scores(
    config: NarrowConfig, classifier: ImageClassifier, channels: ChannelMap, inputs: NarrowInputs
) -> Mapping[str, Tensor]:
    """Return the score of every unit, over training images where the score reads any."""
    scan = ImageWidthScan(build(IMAGE_WIDTH_SCORES, config.score, config.params), channels)
    if config.reads_data:
        images, labels = _calibration(inputs, config.calibration.num_samples)
        counter, size = bar("scoring width", len(images), "images"), config.calibration.batch_size
        for index, pixels in enumerate(pixel_batches(images, size)):
            scan.update(classifier.model, pixels, labels[index * size : (index + 1) * size])
            counter.advance(len(pixels))
    return scan.scores(classifier.model)


def _calibration(inputs: NarrowInputs, num_samples: int) -> tuple[list[Any], Sequence[int]]:
    """Return training images with their labels, equal shares of each data set, spread over it. Raises ValueError where there are none."""
    model: Any = inputs.model
    reader, share = PixelReader(model.path, model.facts.num_channels), -(-num_samples // len(inputs.data))
    images: list[Any] = []
    labels: list[int] = []
    for data in cast("tuple[ImageDatasetArtifact, ...]", inputs.data):  # the forecast refuses texts
        refuse_other_order(model.path, read_classes(data.path), data.facts.name or "data")
        rows = [row for row in read_image_rows(data.path) if row.split == "train"]
        if not rows:
            raise ValueError(f"{data.facts.name or 'data'} has no training images to score on")
        content = ImageBytes(data)
        chosen = spread(rows, share)  # a file may be sorted by class
        images += [reader.stored(data, row, content) for row in chosen]
        labels += [row.label for row in chosen]
    return images, labels
