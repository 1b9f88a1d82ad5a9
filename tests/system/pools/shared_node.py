"""A recipe whose rewriting two workers share, and the proof that nothing of it is lost or doubled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import finished_shards
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.system.pools.machines import Machines

# Each piece takes a good part of a second: long enough to be killed in.
CONFIG = {
    "drawing": {"max_new_tokens": 96, "temperature": 1.0},
    "rows_per_shard": 4,
    "batch_size": 4,
    "precision": "float32",
}
NUM_ROWS, NUM_PIECES = 160, 40
RECIPE = {
    "name": "shared",
    "execution": {"self_data": "cpu"},
    "nodes": {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=4&hidden_size=128&seed=0"}},
        "sums": {"stage": "ingest_data", "config": {"source": "jsonl:sums.jsonl"}},
        "rewritten": {
            "stage": "self_data", "config": CONFIG, "inputs": {"model": "original", "data": "sums"}, "shards": 2,
        },
    },
}  # fmt: skip


def write_recipe(workspace: Path) -> None:
    """Put down `shared.yaml` and the rows that it reads."""
    rows = [
        {"question": f"What is {a} plus {a}?", "answer": f"It is {2 * a}.", "verifier": "number"}
        for a in range(NUM_ROWS)
    ]
    (workspace / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (workspace / "shared.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def pieces_at_work(home: Path) -> list[int]:
    """How many pieces each shard at work under a home has written."""
    return [len(finished_shards(path)) for path in home.glob("work/*/shards") if path.is_dir()]


def shard_states(machines: Machines) -> list[str]:
    """How the flow runs of both shards ended, sorted."""
    runs = [run for index in (1, 2) for run in machines.stage_runs(f"rewritten {index}/2")]
    return sorted(run["state"]["type"] for run in runs)


def node_of(home: Path, name: str) -> dict[str, Any]:
    """What the newest run's record says of a node."""
    record = max(home.glob("runs/*/run.json"))
    return json.loads(record.read_text())["nodes"][name]


def check_whole(home: Path, elsewhere: Path) -> None:
    """Assert that every row is there once, each piece in one shard, and all of it as one worker makes it `elsewhere`."""
    store, node = Store(home), node_of(home, "rewritten")
    whole = store.load("self_data", node["key"])
    store.verify(whole)
    inputs = SelfDataInputs(
        model=_load(home, "original", ModelArtifact.kind), data=_load(home, "sums", DatasetArtifact.kind)
    )
    ids = [row.id for row in read_rows(inputs.data.path / "rows.jsonl")]
    assert len(ids) == NUM_ROWS and [row.id for row in read_rows(whole.path / "rows.jsonl")] == sorted(ids)
    shards = [store.load("self_data", Shard(index, 2).key(node["key"])) for index in range(2)]
    pieces = [piece for shard in shards for piece in finished_shards(shard.path)]
    assert sorted(pieces) == list(range(NUM_PIECES)), "each piece in one shard"
    alone = self_data.execute(SelfDataConfig.model_validate(CONFIG), inputs, Store(elsewhere)).artifact
    assert alone.fingerprint == whole.fingerprint, "as by one worker"


def _load(home: Path, name: str, kind: str) -> Any:
    node = node_of(home, name)
    artifact = Store(home).load(node["stage"], node["key"])
    assert artifact.kind == kind
    return artifact
