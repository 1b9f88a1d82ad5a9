"""Put the weights that were trained on a denoiser into it: one denoiser, proved by what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import Artifact, DenoiserArtifact
from attar.stages.artifacts.denoiser.folder import load_denoiser, save_denoiser
from attar.stages.artifacts.denoiser.proof import probe_predictions, prove_denoiser
from attar.stages.artifacts.model.load_report import refuse_not_finite
from attar.stages.finetune.training_run import WEIGHTS_FILE
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.fold_check import check_learned
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note

# Of the second net of a score distillation, which is of no use behind the training.
CRITIC = "critic."


def check_denoiser_merge(config: MergeConfig) -> None:
    """Raise ValueError for a method that merges several students: a denoiser takes the weights of one training."""
    if config.method != "fold" or config.dtype != "auto":
        given = f"method is {config.method!r}" if config.method != "fold" else f"dtype is {config.dtype!r}"
        raise ValueError(f"{given}, but base is a denoiser; accepted: method fold and dtype auto, with one student")


def fold_denoiser(base: Any, students: Sequence[Artifact[Any]], content: Path) -> DenoiserArtifact:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = _weights(base, students)
    check_learned(students[0])  # type: ignore[arg-type]
    device = pick_device()
    denoiser = load_denoiser(base.path, device)
    before = probe_predictions(denoiser, "merge")
    parameters = dict(denoiser.net.named_parameters())
    if unknown := sorted(weights.keys() - parameters.keys()):
        raise ValueError(f"the student's weights are not the base's: {unknown[0]} is none of its tensors")
    refuse_not_finite(students[0].path, weights)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    expected = probe_predictions(denoiser, "merge")
    change = float((expected - before).abs().max())
    metric("fold_max_prediction_change", change)
    note(
        f"{len(weights)} of {len(parameters)} tensors were trained; a predicted number changes by at most {change:.2g}"
    )
    artifact = save_denoiser(denoiser, content)
    prove_denoiser(content, expected, "merge", device)
    carried = {"license": base.facts["license"]} if "license" in base.facts else {}
    return DenoiserArtifact.at(content, artifact.facts | carried)


def _weights(base: Artifact[Any], students: Sequence[Artifact[Any]]) -> dict[str, torch.Tensor]:
    if len(students) != 1 or students[0].is_whole_model:
        raise ValueError(f"students: {len(students)} given; a denoiser takes the trained weights of one training")
    trained_on = str(students[0].facts["base_fingerprint"])
    if trained_on != base.fingerprint:
        raise ValueError(f"the weights were trained on model {trained_on[:12]}, not on the base given here")
    path = students[0].path / WEIGHTS_FILE
    if not path.exists():
        raise ValueError(
            f"students: {students[0].path.name} holds no {WEIGHTS_FILE}; accepted: a finetune with adapt.kind full"
        )
    return {name: value for name, value in load_file(path).items() if not name.startswith(CRITIC)}
