"""Put trained weights into a model that reads whole texts: one model, proved by what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import AdapterArtifact, AnyModel, ModelArtifact
from attar.registry.artifacts.subjects import ENCODER, Subject
from attar.stages.artifacts.encoder.proof import probe_vectors, prove_encoder
from attar.stages.artifacts.model.load_report import refuse_not_finite
from attar.stages.artifacts.text_models import TEXT_MODELS, kept_facts
from attar.stages.finetune.training_run import WEIGHTS_FILE
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.fold_check import check_learned
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note


def check_encoder_merge(config: MergeConfig, subject: Subject = ENCODER) -> None:
    """Raise ValueError for a method that merges several students: such a model takes the weights of one training."""
    if config.method != "fold" or config.dtype != "auto":
        given = f"method is {config.method!r}" if config.method != "fold" else f"dtype is {config.dtype!r}"
        raise ValueError(
            f"{given}, but base is {subject.words}; accepted: method fold and dtype auto, with one student"
        )


def fold_encoder(base: AnyModel, students: Sequence[AdapterArtifact | ModelArtifact], content: Path) -> Any:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = _weights(base, students)
    check_learned(students[0])
    device, models = pick_device(), TEXT_MODELS[base.subject]
    encoder = models.load(base.path, "auto", device)
    before = probe_vectors(encoder, "merge")
    parameters = dict(encoder.model.named_parameters())
    if unknown := sorted(weights.keys() - parameters.keys()):
        raise ValueError(f"the student's weights are not the base's: {unknown[0]} is none of its tensors")
    refuse_not_finite(students[0].path, weights)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    expected = probe_vectors(encoder, "merge")
    change = float((expected - before).abs().max())
    metric("fold_max_vector_change", change)
    note(
        f"{len(weights)} of {len(parameters)} tensors were trained; a number of its rows changes by at most {change:.2g}"
    )
    artifact = models.save(encoder, content, base.path)
    del encoder
    prove_encoder(content, expected, "merge", device, models.load)
    return type(base).at(content, artifact.facts | kept_facts(base, "removed_blocks"))


def _weights(base: AnyModel, students: Sequence[AdapterArtifact | ModelArtifact]) -> dict[str, torch.Tensor]:
    if len(students) != 1 or students[0].is_whole_model:
        raise ValueError(
            f"students: {len(students)} given; {base.subject.words} takes the trained weights of one training"
        )
    trained_on = str(students[0].facts["base_fingerprint"])
    if trained_on != base.fingerprint:
        raise ValueError(f"the weights were trained on model {trained_on[:12]}, not on the base given here")
    path = students[0].path / WEIGHTS_FILE
    if not path.exists():
        raise ValueError(
            f"students: {students[0].path.name} holds no {WEIGHTS_FILE}; accepted: a finetune with adapt.kind full"
        )
    return load_file(path)
