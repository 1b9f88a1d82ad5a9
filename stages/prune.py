"""Stage `prune`: remove decoder blocks, leaving a smaller plain model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedModel

from compressors.catalogue import did_you_mean
from compressors.measure.likelihood import pad_right
from compressors.prune.blocks import check_removal, remove_blocks
from compressors.prune.metrics import BLOCK_METRICS
from compressors.prune.patch import PatchFit, fold_patch
from compressors.prune.scan import best_window
from registry.artifact import DatasetArtifact, Facts, ModelArtifact, ScanArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.device import pick_device
from stages.model_folder import load_model, save_model
from stages.progress import bar, metric, note
from stages.samples import training_samples
from stages.scan import TABLE, read_scores


class PruneConfig(StageConfig):
    """Which blocks go: the best window of a size under a metric, or a list of indices."""

    num_blocks: int = Field(default=0, ge=0)
    """How many adjacent blocks to remove: the window that scores lowest goes. 0 with `blocks`."""

    metric: str = "angular_distance"
    """Score that chooses the window: angular_distance or block_influence."""

    blocks: list[int] = []
    """Zero-based indices to remove instead, in any order; needs no scan."""

    patch: Literal["none", "linear"] = "none"
    """linear: fold a closed-form map, fitted on the input `data`, into the block before the window; no training."""

    ridge: float = Field(default=1e-2, gt=0)
    """Weight of the map's size in its fit, relative to the mean squared input."""

    num_samples: int = Field(default=256, ge=1)
    """Rows of `data` that the map is fitted on; fewer when there are fewer."""

    max_tokens: int = Field(default=512, ge=2)
    """Cut of each of those rows, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass of the fit."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in BLOCK_METRICS:
            raise ValueError(f"unknown metric {value!r}.{did_you_mean(value, BLOCK_METRICS)}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> PruneConfig:
        if bool(self.blocks) == bool(self.num_blocks):
            given = "both" if self.blocks else "neither"
            raise ValueError(f"num_blocks and blocks contradict: {given} given, exactly one is accepted")
        return self


@dataclass(frozen=True, kw_only=True)
class PruneInputs:
    """The model, its scan where a window is to be chosen, and calibration rows where the cut is to be patched."""

    model: ModelArtifact
    scan: ScanArtifact | None = None
    data: DatasetArtifact | None = None


def _forecast(config: PruneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.num_blocks and "scan" not in inputs:
        raise ValueError("num_blocks needs the input `scan`; without one, list `blocks`")
    if (config.patch != "none") != ("data" in inputs):
        raise ValueError(f"patch is {config.patch!r}: the input `data` is for patch 'linear', and needed there")
    removed = sorted(config.blocks)
    if config.patch != "none" and removed and removed != list(range(removed[0], removed[-1] + 1)):
        raise ValueError(f"patch is {config.patch!r}, but blocks {removed} are not one window; a patch repairs one cut")
    model = inputs["model"][0]
    num_removed = len(config.blocks) or config.num_blocks
    facts: dict[str, Any] = {name: model[name] for name in ("vocab_size", "hidden_size") if name in model}
    if "num_blocks" in model:
        num_blocks = int(model["num_blocks"])
        if config.blocks:
            check_removal(num_blocks, config.blocks)
        elif num_removed >= num_blocks:
            raise ValueError(
                f"num_blocks is {num_removed}, but the model has {num_blocks}; accepted: 1 to {num_blocks - 1}"
            )
        facts["num_blocks"] = num_blocks - num_removed
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=2 * num_bytes, disk_bytes=num_bytes)


@stage("prune", version=2, forecast=_forecast, is_light=True)
def prune(config: PruneConfig, inputs: PruneInputs, workdir: Path) -> ModelArtifact:
    """Remove decoder blocks; the result loads and decodes like any other model of its family.

    Raises ValueError when the blocks do not exist or the family's blocks cannot move.
    """
    removed = chosen_blocks(config, inputs.scan)
    steps = bar("pruning", 3, "steps")
    model = load_model(inputs.model.path, "auto", pick_device())
    steps.advance()
    if inputs.data is not None:
        samples = training_samples(inputs.model.path, inputs.data, config.num_samples, config.max_tokens)
        _patch(config, model, samples, removed)
    remove_blocks(model, removed)
    note(f"removed blocks {', '.join(map(str, removed))}; {model.config.num_hidden_layers} are left")
    steps.advance()
    artifact = save_model(model, workdir / "content", tokenizer_from=inputs.model.path)
    steps.advance()
    return ModelArtifact.at(artifact.path, **artifact.facts, removed_blocks=",".join(map(str, removed)))


def _patch(
    config: PruneConfig, model: PreTrainedModel, samples: Sequence[Sequence[int]], removed: Sequence[int]
) -> None:
    """Fit the map on the rows that the model will be used for, and fold it in."""
    fit = PatchFit(len(removed), [removed[0]])
    counter = bar("fitting the patch", sum(map(len, samples)), "tokens")
    for start in range(0, len(samples), config.batch_size):
        batch = samples[start : start + config.batch_size]
        fit.update(model, *pad_right(batch, model.device))
        counter.advance(sum(map(len, batch)))
    patch = fit.solve(removed[0], config.ridge)
    fold_patch(model, patch)
    metric("patch_residual_fraction", patch.residual_fraction)
    note(f"patched block {removed[0] - 1}: {patch.residual_fraction:.1%} of the window's squared change is left")


def chosen_blocks(config: PruneConfig, scan: ScanArtifact | None) -> list[int]:
    """Return the indices to remove, in order."""
    if config.blocks:
        return sorted(config.blocks)
    assert scan is not None, "the forecast refuses a window without a scan"
    first = best_window(read_scores(scan.path / TABLE, config.metric), config.num_blocks)
    return list(range(first, first + config.num_blocks))
