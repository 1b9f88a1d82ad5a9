"""Stage `fit_share`: the share of labels in a target of labels and teacher. In closed form, from rows set apart for choices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field

from attar.compressors.distill.losses.targets.target_ops import best_share, share_sums
from attar.compressors.measure.likelihood import scoring_batches
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, FittedArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import FittedFacts
from attar.stages.artifacts.dataset.partition import choosing_part, shared_rows_note
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.dataset.samples import exact_tokens
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.writers import open_runner
from attar.stages.contract import Forecast, StageConfig, check_vocabulary, stage
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import bar, metric, note

RESULT = "fitted.json"


class FitShareConfig(StageConfig):
    """How much is read."""

    max_rows: int = Field(default=0, ge=0)
    """Rows set apart for choices that are read (held-out ones where there are none); 0: all."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""

    precision: Precision = "auto"
    """Dtype of the models."""


@dataclass(frozen=True, kw_only=True)
class FitShareInputs:
    """Students fitted to the labels alone and to the teacher alone. `data`: rows of which those for choices are read."""

    on_labels: ModelArtifact
    on_teacher: ModelArtifact
    data: DatasetArtifact


def _forecast(config: FitShareConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    first, second = inputs["on_labels"][0], inputs["on_teacher"][0]
    check_vocabulary(first, second, "on_teacher")
    num_parameters = float(first.get("num_parameters", 0)) + float(second.get("num_parameters", 0))
    num_rows = float(config.max_rows or inputs["data"][0].get("num_heldout", 0))
    return Forecast({}, num_flops=2.0 * num_parameters * num_rows * 200, peak_memory_bytes=6.0 * num_parameters)


@stage("fit_share", version=1, forecast=_forecast)
def fit_share(config: FitShareConfig, inputs: FitShareInputs, workdir: Path) -> FittedArtifact:
    """Return the share in [0, 1] with the least held-out squared error. Raises ValueError without held-out questions.

    https://arxiv.org/abs/2102.13088
    """
    every = read_rows(inputs.data.path / "rows.jsonl")
    fitted_on = choosing_part(every)
    rows = [row for row in split_rows(every, fitted_on) if row.question][: config.max_rows or None]
    if not rows:
        raise ValueError("the data set has no held-out questions; set heldout_fraction in ingest_data above 0")
    if fitted_on == "heldout":
        note(shared_rows_note(inputs.data.facts.name or "the data set", "fit the share"))
    tokenizer = load_tokenizer(inputs.on_labels.path)
    first, second = (open_runner(model, config.precision) for model in (inputs.on_labels, inputs.on_teacher))
    pairs = [exact_tokens(tokenizer, row) for row in rows]
    counter = bar("comparing students", len(rows), "rows")
    numerator = denominator = 0.0
    with torch.inference_mode():
        for locations, ids, mask in scoring_batches(pairs, config.batch_size, first.device):
            both_logits = [runner.forward(ids, mask, None, last_only=False)[0] for runner in (first, second)]
            for row, (index, columns) in enumerate(locations):
                a, b = (logits[row, columns].double().softmax(dim=-1) for logits in both_logits)
                part = share_sums(a, b, torch.tensor(pairs[index][1], device=a.device))
                numerator, denominator = numerator + part[0], denominator + part[1]
            counter.advance(len(locations))
    share = best_share(numerator, denominator)
    metric("share", share)
    note(f"labels get {share:.3f} of the target (unclipped {numerator / denominator if denominator else 1.0:.3f})")
    content = workdir / "content"
    (content / RESULT).write_text(json.dumps({"value": share, "numerator": numerator, "denominator": denominator}))
    return FittedArtifact.at(content, FittedFacts(value=share, fitted_on=fitted_on))
