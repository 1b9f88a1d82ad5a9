"""A node in shards on two workers, of which one is killed in the middle: nothing lost, nothing doubled. On one disk, and on two hosts with an S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.system.pools.machines import kill_tree, standing
from tests.system.pools.shared_node import check_whole, pieces_at_work, shard_states, write_recipe

Environment = dict[str, str]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the silence of a killed run takes a minute to hear


def test_a_killed_worker_loses_and_doubles_nothing(
    tmp_path: Path, session_folder: Path, clean_environment: Environment, mlflow_database: Path
) -> None:
    write_recipe(tmp_path)
    with standing(tmp_path, clean_environment, session_folder, mlflow_database, ["cpu"]) as machines:
        machines.shorten_silence()
        machines.start_worker("cpu", 0, "worker-first")
        second = machines.start_worker("cpu", 0, "worker-second")
        parent = machines.start("run", ["pipelines", "run", "shared.yaml", "--json"], machines.environment)
        machines.until(
            lambda: len(counts := pieces_at_work(machines.home)) == 2 and min(counts) > 0, what="no two at work"
        )
        kill_tree(second.pid)
        assert parent.wait(timeout=600) == 0, machines.log("run")
        assert shard_states(machines) == ["COMPLETED", "COMPLETED", "CRASHED"]
        check_whole(machines.home, tmp_path / "alone")
        client = MlflowClient(f"sqlite:///{machines.home / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        [run] = client.search_runs(experiments, "tags.`attar.stage` = 'self_data'")
        for metric in ("kept_fraction", "peak_memory_bytes"):
            assert len(client.get_metric_history(run.info.run_id, metric)) == 1, "MLflow has it once"
        again = json.loads(machines.attar("run", "shared.yaml", "--json").stdout)
        assert {entry["state"] for entry in again["nodes"].values()} == {"Cached"}
        assert len(shard_states(machines)) == 3, "what is stored wakes no pool"


def test_two_hosts_with_disks_of_their_own_share_an_object_store(
    tmp_path: Path, session_folder: Path, clean_environment: Environment, mlflow_database: Path
) -> None:
    """Hosts are network namespaces, which need no root where the kernel lets users make them: `unshare --net`."""
    pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    apart = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this kernel lets users make no network namespace")
    command = [*apart, "--kill-child", sys.executable, "-m", "tests.system.pools.two_hosts"]
    done = subprocess.run(
        [*command, str(tmp_path), str(session_folder), str(mlflow_database)],
        env=clean_environment, check=False, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
