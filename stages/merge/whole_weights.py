"""Put the weights of one training into the model that it began with. Every model but a causal one is folded so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.subjects import Subject
from attar.stages.artifacts.model.load_report import refuse_not_finite
from attar.stages.finetune.kept_weights import WEIGHTS_FILE
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.fold_check import check_learned
from attar.stages.runtime.progress import metric, note


def check_one_training(config: MergeConfig, subject: Subject, students: Sequence[Facts]) -> None:
    """Raise ValueError for a method that merges several students: a model of this subject takes the weights of one training."""
    if any(student.get("method") == "guidance" for student in students):
        raise ValueError(
            "students: guidance adapters read what each attention does and fold into no weights; accepted: give them to sample as guidance, "
            "or a finetune with adapt.kind full and guided_distance at one scale"
        )
    if config.method != "fold" or config.dtype != "auto":
        given = f"method is {config.method!r}" if config.method != "fold" else f"dtype is {config.dtype!r}"
        raise ValueError(
            f"{given}, but base is {subject.words}; accepted: method fold and dtype auto, with one student"
        )


def trained_on_base(base: Artifact[Any], students: Sequence[Artifact[Any]]) -> dict[str, Tensor]:
    """Return the weights of one training on this base. Raises ValueError for several, another base's, adapters and untrained ones."""
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
    check_learned(students[0])  # type: ignore[arg-type] - no whole model, as was just asked
    return load_file(path)


def fold_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    folder: Path,
    outputs: Callable[[], Tensor],
    *,
    figure: str,
    what: str,
) -> Tensor:
    """Copy the weights of a student's folder into the model of its base, and return what the model gives then.

    `outputs`: what it computes of fixed inputs, of which `what` changes; the largest change is kept as metric `figure`.
    Raises ValueError for a tensor that the model has not, and for numbers that are not finite.
    """
    before, parameters = outputs(), dict(model.named_parameters())
    if unknown := sorted(weights.keys() - parameters.keys()):
        raise ValueError(f"the student's weights are not the base's: {unknown[0]} is none of its tensors")
    refuse_not_finite(folder, weights)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    after = outputs()
    change = float((after - before).abs().max())
    metric(figure, change)
    note(f"{len(weights)} of {len(parameters)} tensors were trained; {what} changes by at most {change:.2g}")
    return after
