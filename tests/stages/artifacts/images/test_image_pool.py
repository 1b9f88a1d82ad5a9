"""A pool of image classifiers as teachers: the one that learned the images weighs most, the student learns its classes behind a head of its own."""

from __future__ import annotations

import json
from typing import Any

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from tests.stages.artifacts.images.conftest import NUM_CLASSES, SIZE, classifier_of

LEARNED: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"labels": 1.0},
    "schedule": {"num_epochs": 6, "learning_rate": 5e-3, "tokens_per_step": 16},
    "compute": {"tokens_per_micro_batch": 32},
    "heldout": {"every": 8},
}


def test_the_teacher_that_learned_the_images_weighs_most(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    lesson = finetune.execute(
        FinetuneConfig(**LEARNED), FinetuneInputs(model=classifier, data=(images,)), store
    ).artifact
    knows = merge.execute(MergeConfig(), MergeInputs(base=classifier, students=(lesson,)), store).artifact
    form = f"image_size={SIZE}&num_channels=1"
    apart = classifier_of(store, f"random:resnet?num_blocks=4&hidden_size=8&{form}&num_classes=7&seed=4")
    student = classifier_of(store, f"random:resnet?num_blocks=2&hidden_size=8&{form}&num_classes={NUM_CLASSES}&seed=2")
    config = {**LEARNED, "objectives": {"labels": 0.5, "forward_kl": 0.5}, "teacher": {"kind": "pool"}}
    given = FinetuneInputs(model=student, data=(images,), teachers=(apart, knows))
    artifact = finetune.execute(FinetuneConfig(**config), given, store).artifact
    curves: dict[str, list[float]] = {}
    for line in (artifact.path / "records" / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        curves.setdefault(entry["name"], []).append(entry["value"])
    assert curves["weight_teacher_2"][0] > 0.9
    near = curves["heldout_forward_kl_teacher_2_nats"]
    assert min(near) < near[0]
    healed = merge.execute(MergeConfig(), MergeInputs(base=student, students=(artifact,)), store).artifact
    assert healed.facts.num_classes == NUM_CLASSES
