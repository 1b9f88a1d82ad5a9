"""Nodes on work pools: two process pools stand for the CPU and the GPU pool; workers and the server are killed under them."""

from __future__ import annotations

import contextvars
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.registry.artifacts.store import Store
from tests.system.operated import BETWEEN_POLLS, DATABASE_SECONDS
from tests.system.pools.machines import Machines, kill_tree, standing

Environment = dict[str, str]
RECIPE = {
    "name": "pooled",
    "execution": {"prune": "gpu"},
    "nodes": {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=3&hidden_size=32&seed=0"}},
        "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
    },
}
SUMS = "\n".join(
    json.dumps({"question": f"What is {a} plus {a}?", "answer": f"It is {2 * a}.", "verifier": "number"})
    for a in range(24)
)
# Some hundred steps with a checkpoint at each: minutes if nobody interrupts, resumed where it was if somebody does.
LONG = {
    "name": "long",
    "execution": {"finetune": "gpu"},
    "nodes": {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=2&hidden_size=32&seed=1"}},
        "sums": {"stage": "ingest_data", "config": {"source": "jsonl:sums.jsonl", "heldout_fraction": 0.25}},
        "student": {
            "stage": "finetune",
            "config": {
                "adapt": {"rank": 2}, "schedule": {"max_steps": 150, "tokens_per_step": 256},
                "compute": {"tokens_per_micro_batch": 256}, "heldout": {"every": 1000}, "checkpoints": {"every": 1},
            },
            "inputs": {"model": "original", "data": ["sums"]},
        },
    },
}  # fmt: skip
# A server whose database is busy answers a minute later, and one test asks for much.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory,
    session_folder: Path,
    clean_environment: Environment,
    mlflow_database: Path,
) -> Iterator[Machines]:
    workspace = tmp_path_factory.mktemp("pools")
    (workspace / "pooled.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (workspace / "long.yaml").write_text(yaml.safe_dump(LONG, sort_keys=False))
    (workspace / "sums.jsonl").write_text(SUMS)
    with standing(workspace, clean_environment, session_folder, mlflow_database, ("cpu", "gpu")) as made:
        yield made


@pytest.fixture(scope="module")
def workers(machines: Machines) -> dict[str, subprocess.Popen[bytes]]:
    return {"cpu": machines.start_worker("cpu", 0), "gpu": machines.start_worker("gpu", 1)}


def test_a_pool_that_is_not_there_is_told_before_anything_runs(machines: Machines) -> None:
    before = machines.ask("flow_runs/count", {})
    done = machines.attar("run", "pooled.yaml", "--set", "smaller.execution=gpus")
    assert done.returncode == 2 and "no deployment stage/stage-gpus; `attar pool gpus` makes it" in done.stderr
    assert machines.ask("flow_runs/count", {}) == before and not list((machines.home / "runs").glob("*"))


def test_a_node_runs_on_its_pool_and_only_names_travel(machines: Machines, workers: dict[str, Any]) -> None:
    done = machines.attar("run", "pooled.yaml", "--set", "original.execution=cpu", "--json")
    assert done.returncode == 0, done.stdout + done.stderr + machines.log("worker-gpu")
    nodes = json.loads(done.stdout)["nodes"]
    pools = {name: machines.stage_runs(name) for name in nodes}
    for name, pool in (("original", "cpu"), ("smaller", "gpu")):
        [child] = pools[name]
        assert child["work_pool_name"] == pool and child["state"]["type"] == "COMPLETED", child["state"]
        assert child["parent_task_run_id"] and nodes[name]["key"] in child["idempotency_key"]
        Store(machines.home).verify(Store(machines.home).load(nodes[name]["stage"], nodes[name]["key"]))
    [child] = pools["smaller"]
    assert child["parameters"]["inputs"] == {"model": [{"stage": "ingest_model", "key": nodes["original"]["key"]}]}
    assert str(machines.home) not in json.dumps(child["parameters"]), "each machine may mount the store where it likes"
    again = json.loads(machines.attar("run", "pooled.yaml", "--set", "original.execution=cpu", "--json").stdout)
    assert {node["state"] for node in again["nodes"].values()} == {"Cached"}
    assert {name: machines.stage_runs(name) for name in nodes} == pools, "what is stored wakes no pool"


def test_what_a_stage_refuses_is_the_reason_of_the_run_and_not_tried_again(
    machines: Machines, workers: dict[str, Any]
) -> None:
    (machines.workspace / "bad.jsonl").write_text("{broken")
    node = {"stage": "ingest_data", "config": {"source": "jsonl:bad.jsonl"}, "execution": "cpu"}
    (machines.workspace / "bad.yaml").write_text(yaml.safe_dump({"name": "bad", "nodes": {"rows": node}}))
    done = machines.attar("run", "bad.yaml")
    assert done.returncode == 1 and "on pool cpu: jsonl:bad.jsonl line 1 is not JSON" in done.stdout
    [child] = machines.stage_runs("rows")
    assert child["state"]["type"] == "FAILED" and "line 1 is not JSON" in child["state"]["message"]


def test_each_stage_has_a_card_of_its_own_and_the_next_one_waits(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from attar.pipelines.run.gpu_slot import gpu_slot
    from attar.stages.process import StageFailed

    monkeypatch.setenv("ATTAR_NUM_GPUS", "2")
    monkeypatch.setenv("ATTAR_GPU_HOST", "there")
    third: list[str] = []

    def wait_for_one() -> None:
        with gpu_slot(machines.home, lambda text: None) as seen:
            third.append(seen["CUDA_VISIBLE_DEVICES"])

    with temporary_settings({PREFECT_API_URL: machines.environment["PREFECT_API_URL"]}):
        waiting = threading.Thread(target=contextvars.copy_context().run, args=(wait_for_one,))
        with gpu_slot(machines.home, lambda text: None) as first:
            with gpu_slot(machines.home, lambda text: None) as second:
                assert {first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]} == {"0", "1"}
                waiting.start()
                BETWEEN_POLLS.wait(3.0)
                assert not third and slots(machines, "gpu:there") == (2, 2)
            waiting.join(timeout=90)
            assert third == [second["CUDA_VISIBLE_DEVICES"]]
        assert slots(machines, "gpu:there") == (2, 0)
        with gpu_slot(machines.home, lambda text: None, 2) as both:
            assert both == {"CUDA_VISIBLE_DEVICES": "0,1"} and slots(machines, "gpu:there") == (2, 2)
        with pytest.raises(StageFailed, match="the stage asks for 3 GPUs, but there has 2; accepted: up to as many"):
            gpu_slot(machines.home, lambda text: None, 3).__enter__()
        monkeypatch.setenv("ATTAR_NUM_GPUS", "0")
        with gpu_slot(machines.home, lambda text: None) as nothing:
            assert nothing == {}


def test_stopping_a_run_stops_its_work_on_the_pool(machines: Machines, workers: dict[str, Any]) -> None:
    parent = machines.start("stopped", ["pipelines", "run", "long.yaml", "--json"], machines.environment)
    child = machines.until(lambda: at_work(machines, "student"), what="the stage never began")
    machines.until(lambda: slots(machines, "gpu:here") == (1, 1), what="the stage never took its slot")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=2 * DATABASE_SECONDS) == 128 + signal.SIGTERM
    machines.until(
        lambda: machines.ask(f"flow_runs/{child['id']}")["state"]["type"] == "CANCELLED", what="the child went on"
    )
    machines.until(lambda: not machines.survivors(), seconds=60, what="a process outlived its run")
    machines.until(lambda: slots(machines, "gpu:here") == (1, 0), what="the slot of a stopped run comes back")


@pytest.mark.slow
@pytest.mark.timeout(900)  # the silence of a killed run takes a minute to hear
def test_a_run_outlives_its_worker_and_its_server(machines: Machines, workers: dict[str, Any]) -> None:
    """Worker and stage are killed as with a machine: the heartbeat tells, the work goes on where it was. Then the server restarts."""
    machines.shorten_silence()
    parent = machines.start("outliving", ["pipelines", "run", "long.yaml", "--json"], machines.environment)
    first = machines.until(lambda: at_work(machines, "student"), what="the stage never began")
    work = work_of(machines, "finetune")
    assert work is not None
    machines.until(
        lambda: [path for path in work.iterdir() if "checkpoint" in path.name], what="no checkpoint was written"
    )
    kill_tree(workers["gpu"].pid)
    workers["gpu"].wait()
    workers["gpu"] = machines.start_worker("gpu", 1)
    machines.until(lambda: machines.ask(f"flow_runs/{first['id']}")["state"]["type"] == "CRASHED", seconds=300)
    assert "no sign of life" in machines.ask(f"flow_runs/{first['id']}")["state"]["message"]
    machines.until(lambda: at_work(machines, "student") and machines.stage_runs("student")[-1]["id"] != first["id"])
    server = machines.started[0]
    server.terminate()
    server.wait()
    machines.started[0] = machines.start_server()
    assert parent.wait(timeout=400) == 0, machines.log("outliving")
    assert [run["state"]["type"] for run in machines.stage_runs("student")][-2:] == ["CRASHED", "COMPLETED"]
    machines.until(
        lambda: slots(machines, "gpu:here") == (1, 0), what="the slot of a killed run comes back with its lease"
    )
    machines.until(lambda: not machines.survivors(), seconds=60, what="a process outlived its run")


def slots(machines: Machines, name: str) -> tuple[int, int]:
    """How many slots a limit has, and how many are taken; a limit that nobody has asked for yet has none."""
    limits = [entry for entry in machines.ask("v2/concurrency_limits/filter", {}) if entry["name"] == name]
    return (limits[0]["limit"], limits[0]["active_slots"]) if limits else (0, 0)


def at_work(machines: Machines, node: str) -> dict[str, Any] | None:
    """The newest run of a node if its stage is at work now."""
    runs = [run for run in machines.stage_runs(node) if run["state"]["type"] == "RUNNING"]
    return runs[-1] if runs and work_of(machines, "finetune") else None


def work_of(machines: Machines, stage: str) -> Path | None:
    """The folder that a stage works in: one that failed has left its own."""
    works = machines.home.glob("work/*/work.json")
    return next((path.parent for path in works if json.loads(path.read_text())["stage"] == stage), None)
