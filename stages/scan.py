"""Stage `scan`: how much every window of decoder blocks changes the residual stream, from one forward pass."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from compressors.catalogue import build
from compressors.measure.likelihood import pad_right
from compressors.prune.metrics import BLOCK_METRICS
from compressors.prune.scan import Scores, WindowScan
from registry.artifact import DatasetArtifact, Facts, ModelArtifact, ScanArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.device import Precision, pick_device, pick_dtype
from stages.model_folder import load_model
from stages.progress import bar, metric
from stages.samples import training_samples

TABLE = "windows.csv"


class ScanConfig(StageConfig):
    """What is run through the model and which of its tokens count."""

    num_samples: int = Field(default=64, ge=1)
    """How many training rows are run through the model; fewer when the data set has fewer."""

    max_tokens: int = Field(default=256, ge=2)
    """Cut of each sample, in tokens."""

    tokens: Literal["all", "last"] = "all"
    """Which tokens the scores average over: all of them, or the last of each sample."""

    batch_size: int = Field(default=8, ge=1)
    """Samples in one forward pass."""

    precision: Precision = "auto"
    """Dtype of the forward pass; scores are always computed in float32."""


@dataclass(frozen=True, kw_only=True)
class ScanInputs:
    """The model to scan and the data that shows what it is used for."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: ScanConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = inputs["model"][0]
    num_flops = 2.0 * float(model.get("num_parameters", 0)) * config.num_samples * config.max_tokens
    return Forecast({"num_blocks": model["num_blocks"]} if "num_blocks" in model else {}, num_flops=num_flops)


@stage("scan", version=2, forecast=_forecast)
def scan(config: ScanConfig, inputs: ScanInputs, workdir: Path) -> ScanArtifact:
    """Score every window of every size under every block metric, as one table."""
    device = pick_device()
    model = load_model(inputs.model.path, pick_dtype(config.precision, device), device)
    samples = training_samples(inputs.model.path, inputs.data, config.num_samples, config.max_tokens)
    totals = WindowScan({name: build(BLOCK_METRICS, name) for name in BLOCK_METRICS}, tokens=config.tokens)
    counter = bar("scanning", sum(map(len, samples)), "tokens")
    for start in range(0, len(samples), config.batch_size):
        batch = samples[start : start + config.batch_size]
        with torch.inference_mode():
            totals.update(model, *pad_right(batch, device))
        counter.advance(sum(map(len, batch)))
    scores = {name: totals.scores(name) for name in BLOCK_METRICS}
    write_scores(workdir / "content" / TABLE, scores)
    for name, table in scores.items():
        metric(f"lowest_{name}_of_one_block", min(score for (_, size), score in table.items() if size == 1))
    num_blocks = max(size for _, size in scores["angular_distance"])
    return ScanArtifact.at(workdir / "content", num_blocks=num_blocks, num_tokens=totals.num_tokens)


def write_scores(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write one line a window: num_blocks, first_block, and a column for each metric."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["num_blocks", "first_block", *scores])
        windows = sorted(next(iter(scores.values())), key=lambda window: (window[1], window[0]))
        for first, size in windows:
            writer.writerow([size, first, *(f"{table[first, size]:.9g}" for table in scores.values())])


def read_scores(path: Path, metric_name: str) -> Scores:
    """Read one metric's scores of every (first block, number of blocks)."""
    with path.open(newline="") as stream:
        return {
            (int(row["first_block"]), int(row["num_blocks"])): float(row[metric_name]) for row in csv.DictReader(stream)
        }
