"""Stage `prune`: remove decoder blocks, leaving a smaller plain model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from compressors.catalogue import did_you_mean
from compressors.prune.blocks import check_removal, remove_blocks
from compressors.prune.metrics import BLOCK_METRICS
from compressors.prune.scan import best_window
from registry.artifact import Facts, ModelArtifact, ScanArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.model_folder import load_model, save_model
from stages.progress import bar, note
from stages.scan import TABLE, read_scores


class PruneConfig(StageConfig):
    """Which blocks go: the best window of a size under a metric, or a list of indices."""

    num_blocks: int = Field(default=0, ge=0)
    """How many adjacent blocks to remove: the window that scores lowest goes. 0 with `blocks`."""

    metric: str = "angular_distance"
    """Score that chooses the window: angular_distance or block_influence."""

    blocks: list[int] = []
    """Zero-based indices to remove instead, in any order; needs no scan."""

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
    """The model, and its scan where a window is to be chosen."""

    model: ModelArtifact
    scan: ScanArtifact | None = None


def _forecast(config: PruneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.num_blocks and "scan" not in inputs:
        raise ValueError("num_blocks needs the input `scan`; without one, list `blocks`")
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


@stage("prune", version=1, forecast=_forecast, is_light=True)
def prune(config: PruneConfig, inputs: PruneInputs, workdir: Path) -> ModelArtifact:
    """Remove decoder blocks; the result loads and decodes like any other model of its family.

    Raises ValueError when the blocks do not exist or the family's blocks cannot move.
    """
    removed = chosen_blocks(config, inputs.scan)
    steps = bar("pruning", 3, "steps")
    model = load_model(inputs.model.path, "auto")
    steps.advance()
    remove_blocks(model, removed)
    note(f"removed blocks {', '.join(map(str, removed))}; {model.config.num_hidden_layers} are left")
    steps.advance()
    artifact = save_model(model, workdir / "content", tokenizer_from=inputs.model.path)
    steps.advance()
    return ModelArtifact.at(artifact.path, **artifact.facts, removed_blocks=",".join(map(str, removed)))


def chosen_blocks(config: PruneConfig, scan: ScanArtifact | None) -> list[int]:
    """Return the indices to remove, in order."""
    if config.blocks:
        return sorted(config.blocks)
    assert scan is not None, "the forecast refuses a window without a scan"
    first = best_window(read_scores(scan.path / TABLE, config.metric), config.num_blocks)
    return list(range(first, first + config.num_blocks))
