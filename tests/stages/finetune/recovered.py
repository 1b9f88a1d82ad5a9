"""What the tests of recovery and teacher once and vocabulary parts and records share."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge

CONFIG = FinetuneConfig(
    adapt={"kind": "full"},
    objectives={"forward_kl": 1.0},
    rows={"learn": "all"},
    schedule={"num_epochs": 12, "learning_rate": 3e-3, "tokens_per_step": 256},
    compute={"tokens_per_micro_batch": 256, "precision": "float32"},
    heldout={"every": 4, "patience": 0},
)


PROSE = "The quick brown fox jumps over the lazy dog, and then it rests a while. " * 40


def train(store: Store, model: ModelArtifact, *data: DatasetArtifact, **changes) -> AdapterArtifact:
    teacher = changes.pop("teacher", None)
    inputs = FinetuneInputs(model=model, data=data, teacher=teacher)
    return finetune.execute(CONFIG.with_changes(**changes), inputs, store).artifact


def curve(adapter: AdapterArtifact, name: str) -> list[float]:
    lines = (adapter.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [entry["value"] for entry in map(json.loads, lines) if entry["name"] == name]


def weights(adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    return load_file(next(adapter.path.glob("*.safetensors")))


def fold(store: Store, base: ModelArtifact, adapter: AdapterArtifact) -> ModelArtifact:
    return merge.execute(MergeConfig(), MergeInputs(base=base, students=(adapter,)), store).artifact
