"""Servers on Postgres that ask for a password: a client without one gets nothing, one with it works, and the password is found nowhere."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from attar.pipelines.operate.credentials import Credentials
from attar.pipelines.operate.postgres import binaries, is_ready
from attar.pipelines.operate.service_state import read_state
from tests.system.operated import Environment, attar, environment_of, free_ports

RECIPE = {
    "name": "wee",
    "nodes": {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=3&hidden_size=32&seed=0"}},
        "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
    },
}
# One deployment that imports no torch: what is tested is who gets in.
DEPLOYMENTS = {
    "name": "attar",
    "pull": [],
    "deployments": [
        {
            "name": "gc",
            "entrypoint": "attar.pipelines.deployments.housekeeping.gc",
            "work_pool": {"name": "attar", "work_queue_name": "heavy"},
        }
    ],
}
PAUSE = threading.Event()
# a second set of servers, on Postgres: that every route refuses a stranger is asked of the routes themselves in every run
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, clean_environment: Environment) -> Environment:
    workspace = tmp_path_factory.mktemp("protected")
    (workspace / "wee.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (workspace / "deployments.yaml").write_text(yaml.safe_dump(DEPLOYMENTS))
    return environment_of(workspace, clean_environment)


@pytest.fixture(scope="module")
def up(environment: Environment, home: Path) -> Iterator[dict[str, Any]]:
    ports = free_ports(4)
    words = [
        word
        for pair in zip(("--prefect-port", "--mlflow-port", "--worker-port", "--postgres-port"), ports, strict=True)
        for word in pair
    ]
    done = attar(
        environment, "up", "--database", "postgres", "--protect", "--prefect-file", "deployments.yaml", "--json", *words
    )
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield json.loads(done.stdout) | {"postgres": int(ports[3])}
    finally:
        attar(environment, "down")


# Who has no password cannot get the token either that a changing request needs: the first thing that is missing is told.
REFUSED = (401, 403)


def status(url: str, body: Any = None, password: str = "", headers: dict[str, str] | None = None) -> int:
    headers = {"Content-Type": "application/json"} | (headers or {})
    if password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'attar:{password}'.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def csrf_token(api: str, password: str) -> dict[str, str]:
    credentials = base64.b64encode(f"attar:{password}".encode()).decode()
    request = urllib.request.Request(f"{api}/csrf-token?client=a", headers={"Authorization": f"Basic {credentials}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {"Prefect-Csrf-Client": "a", "Prefect-Csrf-Token": json.loads(answer.read())["token"]}


@pytest.mark.timeout(600)
def test_prefect_gives_nothing_without_the_password(up: dict[str, Any], home: Path) -> None:
    api, secret = up["api"], Credentials.of(home).prefect
    for path, body in (
        ("flows/filter", {}), ("flow_runs/filter", {}), ("deployments/filter", {}), ("logs/filter", {}), ("block_documents/filter", {}),
        ("variables/filter", {}), ("admin/settings", None), ("work_pools/filter", {}), ("events/filter", {}),
    ):  # fmt: skip
        assert status(f"{api}/{path}", body) in REFUSED, path
        assert status(f"{api}/{path}", body, "guess") in REFUSED, path
    assert status(f"{api}/csrf-token?client=a") == 401
    token = csrf_token(api, secret)
    assert status(f"{api}/flows/filter", {}, secret) == 403, (
        "the password alone could be sent by a page of another origin"
    )
    assert status(f"{api}/flows/filter", {}, "", token) == 401
    assert status(f"{api}/flows/filter", {}, secret, token) == 200
    assert status(f"{api}/health") == 200, "alone what a probe needs is open"


def test_mlflow_gives_nothing_without_the_password(up: dict[str, Any], home: Path) -> None:
    url, secret = up["mlflow"], Credentials.of(home).mlflow
    search = {"max_results": 5}
    for path, body in (
        ("api/2.0/mlflow/experiments/search", search), ("api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}),
        ("api/2.0/mlflow/registered-models/search?max_results=5", None), ("ajax-api/2.0/mlflow/experiments/search", search),
        ("api/2.0/mlflow-artifacts/artifacts", None), ("get-artifact?path=x&run_uuid=y", None), ("graphql", {"query": "{__typename}"}), ("", None),
    ):  # fmt: skip
        assert status(f"{url}/{path}", body) == 401, path
        assert status(f"{url}/{path}", body, "guess") == 401, path
    assert status(f"{url}/api/2.0/mlflow/experiments/search", search, secret) == 200
    assert status(f"{url}/health") == 200


def test_the_command_line_finds_the_password_by_itself(
    environment: Environment, up: dict[str, Any], home: Path
) -> None:
    done = attar(environment, "run", "wee.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert "tracking failed" not in done.stderr
    run = json.loads(done.stdout)
    assert run["prefect_flow_run_id"] and run["mlflow_run_id"]


def test_both_servers_keep_their_data_in_postgres_and_no_password_in_it(
    environment: Environment, up: dict[str, Any], home: Path
) -> None:
    secret = Credentials.of(home)
    words = (secret.prefect, secret.mlflow, secret.postgres, secret.mlflow_session)
    words += tuple(base64.b64encode(f"attar:{word}".encode()).decode() for word in words)
    for database, table in (("prefect", "flow_run"), ("mlflow", "runs")):
        command = [
            str(binaries() / "pg_dump"),
            "-h",
            "127.0.0.1",
            "-p",
            str(up["postgres"]),
            "-U",
            "postgres",
            database,
        ]
        dump = subprocess.run(
            command, capture_output=True, text=True, env={"PGPASSWORD": secret.postgres}, check=True
        ).stdout
        assert f"COPY public.{table} " in dump and "wee" in dump
        assert not [word for word in words if word in dump], f"a password lies in {database}"
    logs = [*(home / "logs").rglob("*"), *(home / "runs").rglob("*"), home / "services" / "state.json"]
    assert len(logs) > 8
    leaks = [path for path in logs if path.is_file() and any(word in path.read_text(errors="ignore") for word in words)]
    assert not leaks
    assert not list(home.glob("*.db")) and not (home / "prefect" / "prefect.db").exists()
    shown = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in shown if any(word in line for word in words)], (
        "the list of processes is open to everybody"
    )


def test_a_killed_postgres_comes_back_and_so_does_the_work(
    environment: Environment, up: dict[str, Any], home: Path
) -> None:
    state = read_state(home)
    assert state is not None and state.services["postgres"].process is not None
    psutil.Process(state.services["postgres"].process.pid).kill()
    deadline = time.monotonic() + 120
    while not (is_ready(up["postgres"]) and (now := read_state(home)) and now.services["postgres"].num_restarts == 1):
        assert time.monotonic() < deadline
        PAUSE.wait(0.5)
    done = attar(environment, "run", "wee.yaml", "--from", "smaller", "--json")
    assert done.returncode == 0, done.stderr


def test_down_stops_postgres_too(environment: Environment, up: dict[str, Any]) -> None:
    """Last in the file."""
    assert json.loads(attar(environment, "down", "--json").stdout)["stopped"] == [
        "postgres",
        "prefect",
        "mlflow",
        "worker",
    ]
    assert not is_ready(up["postgres"])
