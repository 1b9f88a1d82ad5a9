"""Stage `narrow`: take feed-forward channels and KV groups out of every block, or channels of an image classifier. A plain model is left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attar.compressors.catalogue import build
from attar.compressors.prune.depth.block_refit import Matches
from attar.compressors.prune.width.budget import width_cost
from attar.compressors.prune.width.cut import config_changes, cut_width, silenced
from attar.compressors.prune.width.scores import WIDTH_SCORES
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.subjects import IMAGES, subject_of
from attar.stages.artifacts.dataset.samples import mixed_samples
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.folder import save_model
from attar.stages.artifacts.model.placement import Placement
from attar.stages.artifacts.model.proof import check_kept, kept_logits, prove_written
from attar.stages.artifacts.model.size_forecast import narrowed, stored_bytes
from attar.stages.artifacts.model.width_facts import known_cost
from attar.stages.contract import Forecast, stage
from attar.stages.narrow.config import Narrowable, NarrowConfig, NarrowInputs, kept_channels
from attar.stages.narrow.image_classifier import image_narrow_forecast, narrow_classifier
from attar.stages.narrow.passes import MAX_GRAM_BYTES, Passes, Units, record_kept
from attar.stages.prune.refit_pass import refit_result
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


# Models in memory at once, in float32.
NUM_COPIES = {"none": 2, "linear": 2, "refit": 3}


def _forecast(config: NarrowConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.reads_data != bool(inputs.get("data")):
        why = f"score is {config.score!r} and patch {config.patch.kind!r}"
        raise ValueError(f"{why}: they need the input `data`" if config.reads_data else f"{why}: they read no `data`")
    model = inputs["model"][0]
    if subject_of(model) is IMAGES:
        return image_narrow_forecast(config, inputs)
    _check_text(config, inputs)
    facts: dict[str, Any] = {name: model[name] for name in ("vocab_size", "hidden_size", "num_blocks") if name in model}
    num_bytes, num_gram_bytes = 4.0 * float(model.get("num_parameters", 0)), 0.0
    cost = known_cost(model)
    if cost is not None:
        num_channels = kept_channels(config, cost)
        facts |= narrowed(model, num_channels, config.num_removed_groups)
        if config.patch.kind != "none":
            num_gram_bytes = min(MAX_GRAM_BYTES, 4.0 * cost.num_blocks * cost.num_channels**2)
    elif config.size.num_parameters or (config.size.parameter_fraction and "num_parameters" in model):
        share = config.size.parameter_fraction * float(model.get("num_parameters", 0))
        facts |= {"num_parameters": config.size.num_parameters or int(share)}
    num_passes = {"weights": 0, "activations": 1, "gradients": 2}[WIDTH_SCORES[config.score].source]
    num_passes += {"none": 0, "linear": 1, "refit": 4}[config.patch.kind]
    num_flops = 0.5 * num_bytes * num_passes * config.calibration.num_samples * config.calibration.max_tokens
    disk_bytes = stored_bytes(facts) or num_bytes
    peak_bytes = NUM_COPIES[config.patch.kind] * num_bytes
    return Forecast(facts, num_flops, peak_memory_bytes=peak_bytes + num_gram_bytes, disk_bytes=disk_bytes)


def _check_text(config: NarrowConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> None:
    """Raise ValueError for what is of image classifiers alone."""
    refuse_other_data(inputs["model"][0], inputs.get("data", ()))
    if config.score not in WIDTH_SCORES:
        raise ValueError(f"score is {config.score!r}; accepted for a causal language model: {', '.join(WIDTH_SCORES)}")
    if config.spread != "even":
        raise ValueError(
            f"spread is {config.spread!r}, but every block of a causal language model is narrowed alike; accepted: even"
        )


@stage("narrow", version=4, forecast=_forecast, follows="model")
def narrow(config: NarrowConfig, inputs: NarrowInputs, workdir: Path) -> Narrowable:
    """Remove feed-forward channels and KV heads, or an image classifier's channels. The result loads like any other, which is tried.

    Raises ValueError when a plain config of the family cannot say the new sizes, the budget cannot be reached, or the proof fails.
    """
    if inputs.model.subject is IMAGES:
        return narrow_classifier(config, inputs, workdir / "content")
    placement = Placement.chosen(
        "model" if config.needs_gradients else config.in_memory,
        inputs.model.path,
        NUM_COPIES[config.patch.kind],
        pick_device(),
        workdir / "changes",
    )
    result, kept_units, expected = _narrowed(config, inputs, placement)
    artifact = save_model(result, workdir / "content", tokenizer_from=inputs.model.path)
    record_kept(workdir / "content", kept_units)
    del result
    pages = placement.pages("proof", keeps_blocks=True)
    prove_written(artifact.path, expected, "narrow", placement.device, pages=pages)
    return artifact


def _narrowed(
    config: NarrowConfig, inputs: NarrowInputs, placement: Placement
) -> tuple[PreTrainedModel, dict[Units, list[Tensor]], Tensor]:
    """Return the narrower model, the units that it kept, and its logits on the proof's prompts."""
    model = placement.load(inputs.model.path, pick_dtype(config.calibration.precision, placement.device), "original")
    cost = width_cost(model)
    num_channels, num_groups = kept_channels(config, cost), cost.num_groups - config.num_removed_groups
    num_kept: dict[Units, int] = {}
    if num_channels < cost.num_channels:
        num_kept["channels"] = num_channels
    if config.num_removed_groups:
        num_kept["groups"] = num_groups
    config_changes(model, num_channels=num_kept.get("channels"), num_groups=num_kept.get("groups"))
    samples: list[list[int]] = []
    if inputs.data:
        data = cast("tuple[DatasetArtifact, ...]", inputs.data)  # of texts, which the forecast sees to
        size = config.calibration
        samples = mixed_samples(inputs.model.path, data, size.num_samples, size.max_tokens)
    passes = Passes(model, samples, config.calibration.batch_size)
    kept_units = passes.choose(build(WIDTH_SCORES, config.score, config.params), num_kept)
    result = placement.load(inputs.model.path, "auto")  # the passes may have run in another dtype
    if config.patch.kind != "none":
        passes.patch(result, kept_units, config.patch.ridge)
    expected = _cut(result, kept_units)
    if config.patch.kind == "refit":
        every = tuple(range(cost.num_blocks))
        matches, ridge = Matches(every, every), config.patch.refit_ridge
        batch_size = config.calibration.batch_size
        refit_result(result, model, samples, matches, first=0, ridge=ridge, batch_size=batch_size)
        expected = kept_logits(result, "narrow")
    totals = {"channels": ("channels", cost.num_channels), "groups": ("KV groups", cost.num_groups)}
    left = (f"{count} of {totals[what][1]} {totals[what][0]}" for what, count in num_kept.items())
    note(f"kept in each block: {', '.join(left)}")
    return result, kept_units, expected


def _cut(result: PreTrainedModel, kept_units: Mapping[Units, list[Tensor]]) -> Tensor:
    """Narrow in place and return the logits; they must be the whole model's with the other units silent."""
    units = {"channels": kept_units.get("channels"), "groups": kept_units.get("groups")}
    with silenced(result, **units):
        whole = kept_logits(result, "narrow")
    cut_width(result, **units)
    check_kept(result, whole, "narrow")
    return kept_logits(result, "narrow")
