"""A node in shards on two workers of a pool, one of which is killed with its shard half done: nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import finished_shards
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.system.pools.machines import Machines, kill_tree, standing

Environment = dict[str, str]
# Fifty pieces, each a good part of a second: long enough to be killed in.
CONFIG = {
    "drawing": {"max_new_tokens": 96, "temperature": 1.0},
    "rows_per_shard": 4,
    "batch_size": 4,
    "precision": "float32",
}
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
SUMS = [{"question": f"What is {a} plus {a}?", "answer": f"It is {2 * a}.", "verifier": "number"} for a in range(200)]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the silence of a killed run takes a minute to hear


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory,
    session_folder: Path,
    clean_environment: Environment,
    mlflow_database: Path,
) -> Iterator[Machines]:
    workspace = tmp_path_factory.mktemp("shards")
    (workspace / "shared.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (workspace / "sums.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    with standing(workspace, clean_environment, session_folder, mlflow_database, ["cpu"]) as made:
        yield made


def test_a_killed_worker_loses_and_doubles_nothing(machines: Machines, tmp_path: Path) -> None:
    machines.shorten_silence()
    machines.start_worker("cpu", 0, "worker-first")
    second = machines.start_worker("cpu", 0, "worker-second")
    parent = machines.start("run", ["pipelines", "run", "shared.yaml", "--json"], machines.environment)
    machines.until(lambda: min(written(machines), default=0) > 0 and len(written(machines)) == 2, what="no two at work")
    kill_tree(second.pid)
    assert parent.wait(timeout=600) == 0, machines.log("run")
    states = [run["state"]["type"] for run in machines.stage_runs("rewritten")]
    assert sorted(states) == ["COMPLETED"] * len(states) or states.count("CRASHED") == 1, states
    store, node = Store(machines.home), node_of(machines, "rewritten")
    whole = store.load("self_data", node["key"])
    store.verify(whole)
    assert sorted(row.id for row in read_rows(whole.path / "rows.jsonl")) == sorted(ids(machines))
    shards = [store.load("self_data", Shard(index, 2).key(node["key"])) for index in range(2)]
    pieces = [piece for shard in shards for piece in finished_shards(shard.path)]
    assert sorted(pieces) == list(range(50)), "each piece in one shard"
    inputs = SelfDataInputs(
        model=load(machines, "original", ModelArtifact), data=load(machines, "sums", DatasetArtifact)
    )
    config = SelfDataConfig.model_validate(CONFIG)
    alone = self_data.execute(config, inputs, Store(tmp_path)).artifact
    assert alone.fingerprint == whole.fingerprint, "as by one worker"
    client = MlflowClient(f"sqlite:///{machines.home / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(experiments, "tags.`attar.stage` = 'self_data'")
    assert len(client.get_metric_history(run.info.run_id, "kept_fraction")) == 1
    again = json.loads(machines.attar("run", "shared.yaml", "--json").stdout)
    assert {entry["state"] for entry in again["nodes"].values()} == {"Cached"}
    assert len(machines.stage_runs("rewritten")) == len(states), "what is stored wakes no pool"


def written(machines: Machines) -> list[int]:
    """How many pieces each shard at work has written."""
    works = [path for path in machines.home.glob("work/*/shards") if path.is_dir()]
    return [len(finished_shards(path)) for path in works]


def node_of(machines: Machines, name: str) -> dict[str, Any]:
    [record] = machines.home.glob("runs/*/run.json")
    return json.loads(record.read_text())["nodes"][name]


def load(machines: Machines, name: str, kind: type[Any]) -> Any:
    node = node_of(machines, name)
    artifact = Store(machines.home).load(node["stage"], node["key"])
    assert artifact.kind == kind.kind
    return artifact


def ids(machines: Machines) -> list[str]:
    return [row.id for row in read_rows(load(machines, "sums", DatasetArtifact).path / "rows.jsonl")]
