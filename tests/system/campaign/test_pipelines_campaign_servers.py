"""Servers that go away while work is under way: runs that start then wait and go on, and what they make is made once."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from attar.pipelines.operate.health import answers
from attar.pipelines.operate.service_state import read_state
from tests.system.campaign.ledger import note_scenario
from tests.system.campaign.lives import BETWEEN_POLLS, rows_of
from tests.system.operated import Api, Environment, attar, environment_of, free_ports, until, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_RUNS = 4
AWAY_SECONDS = 30.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, clean_environment: Environment) -> Environment:
    workspace = tmp_path_factory.mktemp("servers")
    write_recipe(workspace)
    return environment_of(workspace, clean_environment)


@pytest.fixture(scope="module")
def home(environment: Environment) -> Path:
    return Path(environment["ATTAR_HOME"])


@pytest.fixture(scope="module")
def up(environment: Environment, home: Path) -> Iterator[dict[str, Any]]:
    prefect, mlflow, worker = free_ports(3)
    ports = ("--prefect-port", prefect, "--mlflow-port", mlflow, "--worker-port", worker)
    done = attar(environment, "up", *ports, "--heavy-at-once", str(NUM_RUNS), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    yield json.loads(done.stdout)
    attar(environment, "down")


@pytest.fixture
def api(up: dict[str, Any]) -> Api:
    return Api(up["api"])


def service(home: Path, name: str) -> psutil.Process:
    """The running process of a service, and its state's word that it is well."""

    def process() -> psutil.Process | None:
        state = read_state(home)
        assert state is not None
        mark = state.services[name].process
        return mark.process if mark and state.services[name].state == "healthy" else None

    return until(process)


def go_away(home: Path, name: str, seconds: float) -> None:
    """Kill a service and keep its supervisor from starting it again for so long."""
    state = read_state(home)
    assert state is not None and state.supervisor.process is not None
    supervisor, victim = state.supervisor.process, service(home, name)
    supervisor.send_signal(signal.SIGSTOP)
    try:
        for process in (victim, *victim.children(recursive=True)):
            process.kill()
        BETWEEN_POLLS.wait(seconds)
    finally:
        supervisor.send_signal(signal.SIGCONT)


def started(environment: Environment, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "attar.pipelines", "run", *words, "--json"]
    folder = Path(environment["ATTAR_HOME"]).parent
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def num_starting() -> int:
    """Count the processes that a worker has started for runs and that may not have asked the server yet."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return len([line for line in lines if "attar.pipelines.operate.run_start" in line])


def test_a_run_with_a_command_of_its_own_is_refused_or_runs_ours(api: Api, up: dict[str, Any], tmp_path: Path) -> None:
    own = {"command": f"touch {tmp_path / 'owned'}", "env": {"ATTAR_HOME": str(tmp_path)}, "working_dir": str(tmp_path)}
    path = f"deployments/{api.deployment('gc')['id']}/create_flow_run"
    for name, value in own.items():
        body = {"parameters": {"dry_run": True}, "state": {"type": "SCHEDULED"}, "job_variables": {name: value}}
        try:
            run = api.ask(path, body)["id"]
        except urllib.error.HTTPError as refusal:
            if refusal.code >= 500:
                raise
        else:
            api.wait(run, "COMPLETED")
    assert not list(tmp_path.iterdir())


def test_runs_that_start_while_prefect_is_away_wait_and_go_on(api: Api, home: Path, up: dict[str, Any]) -> None:
    """The worker has started their processes, which find nobody. (While it starts them itself, Prefect's worker gives a run up.)"""

    def overrides(seed: int) -> list[str]:
        source = f"original.config.source=random:llama?num_blocks=3&hidden_size=32&seed={seed}"
        return [source, "release.config.name=away"]

    runs = [api.trigger("recipe", {"name": "wee.yaml", "overrides": overrides(seed)}) for seed in range(NUM_RUNS)]
    until(lambda: num_starting() >= 2)
    go_away(home, "prefect", AWAY_SECONDS)
    until(lambda: answers(f"{up['api']}/health"))
    for run in runs:
        api.wait(run, "COMPLETED", seconds=900)
    note_scenario("Prefect away while runs start")


def test_the_command_line_waits_for_a_server_that_is_away(environment: Environment, home: Path, api: Api) -> None:
    away = threading.Thread(target=go_away, args=(home, "prefect", AWAY_SECONDS))
    away.start()
    until(lambda: not answers(f"{api.url}/health"))
    process = started(environment, "wee.yaml", "--until", "smaller")
    printed, warned = process.communicate(timeout=600)
    away.join()
    assert process.returncode == 0, warned
    assert "does not answer: waiting up to 900 s" in warned and "Traceback" not in warned
    assert json.loads(printed)["prefect_flow_run_id"]
    note_scenario("Prefect away at the command line")


def test_prefect_gone_in_the_middle_costs_nothing(environment: Environment, home: Path, api: Api) -> None:
    process = started(environment, "wee.yaml", "--from", "original", "--set", "release.config.name=middle")
    until(lambda: list(home.glob("work/*/work.json")))
    go_away(home, "prefect", AWAY_SECONDS)
    printed, warned = process.communicate(timeout=900)
    assert process.returncode == 0, warned
    assert "Traceback" not in warned
    nodes = json.loads(printed)["nodes"].values()
    assert {node["state"] for node in nodes} <= {"Completed", "Cached"}
    note_scenario("Prefect away in the middle")


def test_mlflow_killed_inside_register_makes_no_second_version(environment: Environment, home: Path, api: Api) -> None:
    """Whether the stage outlives its server or not, the same command ends with one version, and the aliases on it."""
    words = ("wee.yaml", "--set", "release.config.name=once")
    process = started(environment, *words)
    until(lambda: [path for path in home.glob("work/*/work.json") if '"register"' in path.read_text()])
    victim = service(home, "mlflow")
    for victim_process in (victim, *victim.children(recursive=True)):
        victim_process.kill()
    _, warned = process.communicate(timeout=900)
    assert "Traceback" not in warned
    service(home, "mlflow")
    done = attar(environment, "run", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert rows_of(home / "mlflow.db", "select count(*) from model_versions where name = 'once'") == [(1,)]
    aliases = dict(
        rows_of(home / "mlflow.db", "select alias, version from registered_model_aliases where name = 'once'")
    )
    assert {str(version) for version in aliases.values()} == {"1"} and "candidate" in aliases
    note_scenario("MLflow killed inside register")


def test_a_locked_database_of_mlflow_costs_no_artifact(
    environment: Environment, home: Path, up: dict[str, Any]
) -> None:
    holder = sqlite3.connect(home / "mlflow.db", isolation_level=None, check_same_thread=False, timeout=60)
    holder.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(AWAY_SECONDS, lambda: holder.execute("ROLLBACK"))
    release.start()
    process = started(environment, "wee.yaml", "--from", "smaller", "--set", "release.config.name=locked")
    _, warned = process.communicate(timeout=900)
    release.join()
    assert "Traceback" not in warned
    if process.returncode != 0:  # told in a line, and the same command goes on
        done = attar(environment, "run", "wee.yaml", "--set", "release.config.name=locked", "--json")
        assert done.returncode == 0, done.stderr
    assert rows_of(home / "mlflow.db", "select count(*) from model_versions where name = 'locked'") == [(1,)]
    note_scenario("MLflow's database locked")
