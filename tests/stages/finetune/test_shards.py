"""Training in shards: two processes with half of each block learn what one learns, go on after a kill, and refuse what they cannot do."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune

CONFIG = FinetuneConfig(
    adapt={"kind": "full"},
    objectives={"next_token": 1.0},
    schedule={"num_epochs": 20, "max_steps": 8, "learning_rate": 1e-3, "tokens_per_step": 512, "average_decay": 0.5},
    # parts so small that the processes have another number of them: each must wait for the other
    compute={"tokens_per_micro_batch": 128, "precision": "float32"},
    heldout={"every": 2, "patience": 0},
    checkpoints={"every": 2},
)


def train(
    model: ModelArtifact, data: DatasetArtifact, store: Store, num_shards: int, adapt: dict[str, Any]
) -> AdapterArtifact:
    config = CONFIG.with_changes(adapt=adapt, compute={"num_shards": num_shards})
    return finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact


def curve(adapter: AdapterArtifact, name: str) -> list[float]:
    lines = (adapter.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [entry["value"] for entry in map(json.loads, lines) if entry["name"] == name]


def weights(adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    return load_file(next(adapter.path.glob("*.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapt",
    [{"kind": "full"}, {"kind": "lora", "rank": 4}, {"kind": "dora", "rank": 4}],
    ids=lambda adapt: adapt["kind"],
)
def test_two_processes_learn_what_one_learns(
    model: ModelArtifact, questions: DatasetArtifact, store: Store, adapt: dict[str, Any]
) -> None:
    whole, sharded = (train(model, questions, store, count, adapt) for count in (1, 2))
    for name in ("train_next_token_nats", "heldout_next_token_nats", "grad_norm"):
        assert len(curve(whole, name)) >= 5
        assert curve(sharded, name) == pytest.approx(curve(whole, name), abs=1e-5, rel=1e-5), name
    before, after = weights(whole), weights(sharded)
    assert before.keys() == after.keys()
    for name, value in before.items():
        # AdamW's first steps are the signs of the gradients, where a last digit may turn one that is near zero
        assert float((value - after[name]).abs().mean()) < 1e-5, name
    assert whole.facts == sharded.facts


@pytest.mark.slow
def test_a_killed_training_in_shards_goes_on_to_the_same_weights(
    model: ModelArtifact, questions: DatasetArtifact, store: Store, tmp_path: Path
) -> None:
    adapt = {"kind": "lora", "rank": 4}
    straight = train(model, questions, Store(tmp_path / "straight"), 2, adapt)
    process = multiprocessing.get_context("fork").Process(target=train, args=(model, questions, store, 2, adapt))
    process.start()
    deadline = time.monotonic() + 120.0
    while not (steps := sorted(store.root.glob("work/*/shard-1/checkpoint-*.pt"))):
        assert time.monotonic() < deadline and process.is_alive(), "no checkpoint before the end"
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 2 <= int(steps[0].stem.partition("-")[2]) < 8
    path = max(store.root.glob("work/*/shard-1/checkpoint-*.pt"))
    parts = torch.load(path, weights_only=True)["trainer"]["weights"].values()
    num_trained = sum(value.numel() for value in weights(straight).values())
    assert sum(part.numel() for part in parts) == num_trained // 2, "each process holds half"
    resumed = train(model, questions, store, 2, adapt)
    assert curve(resumed, "train_next_token_nats") == curve(straight, "train_next_token_nats")
    before, after = weights(straight), weights(resumed)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"adapt": {"kind": "last_blocks"}}, "adapt.kind 'last_blocks'"),
        ({"adapt": {"kind": "quantization_aware"}}, "adapt.kind 'quantization_aware'"),
        ({"adapt": {"kind": "full", "blocks": "after_cut"}}, "adapt.blocks 'after_cut'"),
        ({"adapt": {"kind": "lora", "quantized_base": "nf4"}}, "adapt.quantized_base 'nf4'"),
        ({"adapt": {"kind": "lora", "expert_rank": 2}}, "adapt.expert_rank 2"),
        ({"rollout": {"kind": "student", "num_samples": 2}}, "a rollout"),
        ({"heldout": {"stop_on": "quality"}}, "heldout.stop_on 'quality'"),
        ({"teacher": {"kind": "self", "rule": {"kind": "ema", "decay": 0.9}}}, "the student itself as teacher"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_shards_cannot_do_is_refused_in_one_line(changes: dict[str, Any], what: str) -> None:
    FinetuneConfig(**changes)
    with pytest.raises(ValidationError, match=f"compute.num_shards is 2, but there is {what}; accepted with shards"):
        FinetuneConfig(**changes, compute={"num_shards": 2})
