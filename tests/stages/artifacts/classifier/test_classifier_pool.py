"""A pool of classifiers as teachers, of other classes than the student's: the one that learned the task weighs most, and leaves no head behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import ClassifierArtifact, DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.classifier.conftest import LEARNED, classifier_of

POOL: dict[str, Any] = {
    **LEARNED,
    "objectives": {"labels": 0.5, "near": {"divergence": "forward_kl", "weight": 0.5}},
    "teacher": {"kind": "pool", "power": 9.0},
    "schedule": {"num_epochs": 6, "learning_rate": 3e-3, "tokens_per_step": 128},
}


def test_the_teacher_that_learned_the_classes_weighs_most_and_its_head_goes(
    store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> None:
    apart = classifier_of(
        store, "random:bert?num_blocks=2&hidden_size=32&seed=3", labels=["a", "b", "c"], max_tokens=64
    )
    fresh = classifier_of(
        store, "random:bert?num_blocks=3&hidden_size=32&seed=8", labels=["fruit", "tool"], max_tokens=64
    )
    student = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=fresh), store).artifact
    given = FinetuneInputs(model=student, data=(labelled,), teachers=(apart, classifier))
    artifact = finetune.execute(FinetuneConfig(**POOL), given, store).artifact
    curves: dict[str, list[float]] = {}
    for line in (artifact.path / "records" / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        curves.setdefault(entry["name"], []).append(entry["value"])
    assert curves["weight_teacher_2"][0] > 0.9 > curves["weight_teacher_1"][0] > 0
    near = curves["heldout_near_teacher_2_nats"]
    assert min(near) < 0.8 * near[0], near
    assert not [name for name in load_file(artifact.path / "weights.safetensors") if "pool_heads" in name]
    healed = merge.execute(MergeConfig(), MergeInputs(base=student, students=(artifact,)), store).artifact
    assert healed.facts.num_parameters == student.facts.num_parameters


def test_a_pool_goes_on_after_a_kill_to_the_same_weights(
    store: Store, fresh: ClassifierArtifact, classifier: ClassifierArtifact, labelled: DatasetArtifact, tmp_path: Any
) -> None:
    """Stopped behind a checkpoint and begun again, heads and all."""
    from attar.stages.finetune.plan import TrainingPlan
    from attar.stages.finetune.subjects.classifier import build_classifier_run

    config = FinetuneConfig(**{**POOL, "schedule": {"max_steps": 6, "learning_rate": 3e-3, "tokens_per_step": 128}})
    config = config.with_changes(checkpoints={"every": 2})
    given = FinetuneInputs(model=fresh, data=(labelled,), teachers=(fresh, classifier))
    plan = TrainingPlan.of(config, given)
    ends = []
    for folder, stops_at in ((tmp_path / "whole", 0), (tmp_path / "broken", 4)):
        folder.mkdir()
        for stop in (stops_at, 0) if stops_at else (0,):
            torch.manual_seed(plan.seed)  # dropout draws from it, as the stage seeds it
            run = build_classifier_run(plan, given, folder)
            run.resume()
            if stop:
                for record in run.trainer.run():
                    run._after(record)
                    if record.step == stop:
                        break
            else:
                run.train()
        ends.append({name: value.clone() for name, value in run.student.named_parameters() if value.requires_grad})
    assert any(name.startswith("pool_heads") for name in ends[0])
    assert all(bool((ends[0][name] == ends[1][name]).all()) for name in ends[0])


def test_a_scorer_of_pairs_has_no_pool() -> None:
    facts = {"labels": ("alike",), "num_subclasses": 1, "reads_pairs": True, "max_tokens": 64, "vocab_size": 259}
    with pytest.raises(ValueError, match="the model is a scorer of pairs; accepted: an encoder, a classifier"):
        finetune.forecast(FinetuneConfig(**POOL), {"model": (facts,), "data": ({},), "teachers": (facts, facts)})
