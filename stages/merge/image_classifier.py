"""Put the weights that were trained on an image classifier into it: one classifier, proved by what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from attar.registry.artifacts.handles import AdapterArtifact, ImageClassifierArtifact, ModelArtifact
from attar.stages.artifacts.images.folder import load_classifier, save_classifier
from attar.stages.artifacts.images.proof import probe_logits, prove_classifier
from attar.stages.artifacts.model.load_report import refuse_not_finite
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.encoder import trained_on_base
from attar.stages.merge.fold_check import check_learned
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note


def check_image_merge(config: MergeConfig) -> None:
    """Raise ValueError for a method that merges several students: an image classifier takes the weights of one training."""
    if config.method != "fold" or config.dtype != "auto":
        given = f"method is {config.method!r}" if config.method != "fold" else f"dtype is {config.dtype!r}"
        raise ValueError(
            f"{given}, but base is an image classifier; accepted: method fold and dtype auto, with one student"
        )


def fold_classifier(
    base: ImageClassifierArtifact, students: Sequence[AdapterArtifact | ModelArtifact], content: Path
) -> ImageClassifierArtifact:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = trained_on_base(base, students)
    check_learned(students[0])
    device = pick_device()
    classifier = load_classifier(base.path, "auto", device)
    before = probe_logits(classifier, base.facts, "merge")
    parameters = dict(classifier.model.named_parameters())
    if unknown := sorted(weights.keys() - parameters.keys()):
        raise ValueError(f"the student's weights are not the base's: {unknown[0]} is none of its tensors")
    refuse_not_finite(students[0].path, weights)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    expected = probe_logits(classifier, base.facts, "merge")
    change = float((expected - before).abs().max())
    metric("fold_max_logit_change", change)
    note(f"{len(weights)} of {len(parameters)} tensors were trained; a logit changes by at most {change:.2g}")
    artifact = save_classifier(classifier, content, base.path)
    del classifier
    prove_classifier(content, expected, base.facts, "merge", device)
    carried = {name: base.facts[name] for name in ("license", "removed_blocks") if name in base.facts}
    return ImageClassifierArtifact.at(content, artifact.facts | carried)
