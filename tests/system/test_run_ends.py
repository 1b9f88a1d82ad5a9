"""How a run ends where something beside its nodes goes wrong: it goes on where it can, and never says that it is done where it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from attar.registry.tracking.run_record import RunRecord, new_run_folder, open_runs
from tests.databases import copy_database
from tests.system.forked import attar_forked
from tests.system.operated import Environment, attar_here, write_recipe

PROSE = ("run", "wee.yaml", "--until", "prose", "--json")


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: Environment,
    serve_prefect: Callable[[Path], Environment],
    mlflow_database: Path,
) -> Environment:
    workspace = tmp_path_factory.mktemp("ends")
    write_recipe(workspace)
    home = workspace / "home"
    copy_database(mlflow_database, home / "mlflow.db")
    return clean_environment | serve_prefect(home) | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()}


def test_a_record_that_was_tampered_with_keeps_no_run_from_its_work(environment: Environment) -> None:
    home = Path(environment["ATTAR_HOME"])
    dead = RunRecord(new_run_folder(home, "old"), "old", "f" * 8, {}, prefect_flow_run_id="none")
    dead.pid = max(psutil.pids()) + 1_000_000
    dead.save()
    done = attar_forked(environment, *PROSE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nodes"]["prose"]["state"] == "Completed"
    assert f"run {dead.id} had been stopped or killed: closing it" in done.stderr
    assert "Traceback" not in done.stderr and not open_runs(home)


def test_a_run_that_failed_beside_its_nodes_says_so_and_exits_with_1(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was: the flow's state alone knows of it, and no node."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(Path(environment["ATTAR_HOME"]).parent)
    monkeypatch.setattr("attar.pipelines.run.flow.close_dead_runs", refuse)
    done = attar_here(environment, *PROSE)
    assert done.returncode == 1
    assert "attar: OSError: [Errno 28] No space left on device" in done.stderr
