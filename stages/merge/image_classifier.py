"""Put the weights that were trained on an image classifier into it: one classifier, proved by what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from attar.compressors.distill.teachers.image_classifier import HEADS
from attar.registry.artifacts.handles import AdapterArtifact, ImageClassifierArtifact, ModelArtifact
from attar.stages.artifacts.encoder.elastic import space_facts, space_of
from attar.stages.artifacts.images.folder import load_classifier, save_classifier
from attar.stages.artifacts.images.proof import probe_logits, prove_classifier
from attar.stages.merge.whole_weights import fold_weights, trained_on_base
from attar.stages.runtime.device import pick_device


def fold_classifier(
    base: ImageClassifierArtifact, students: Sequence[AdapterArtifact | ModelArtifact], content: Path
) -> ImageClassifierArtifact:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = {name: value for name, value in trained_on_base(base, students).items() if not name.startswith(HEADS)}
    device = pick_device()
    classifier = load_classifier(base.path, "auto", device)
    expected = fold_weights(
        classifier.model,
        weights,
        students[0].path,
        partial(probe_logits, classifier, base.facts, "merge"),
        figure="fold_max_logit_change",
        what="a logit",
    )
    artifact = save_classifier(classifier, content, base.path)
    del classifier
    prove_classifier(content, expected, base.facts, "merge", device)
    carried = {name: base.facts[name] for name in ("license", "removed_blocks", "widths") if name in base.facts}
    learned = space_facts(space_of(students[0].facts))
    return ImageClassifierArtifact.at(content, artifact.facts | carried | learned)
