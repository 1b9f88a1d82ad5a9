"""Servers, worker and deployments as a user has them, for the tests: brought up by the command itself, asked through Prefect's API."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from attar.pipelines.operate.service_state import read_state
from attar.stages.runtime.orphans import OWNER

Environment = dict[str, str]
# Four small stages and a registration: what a run through a worker costs is Prefect's start, not its nodes.
RECIPE = {
    "name": "wee",
    "nodes": {
        "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=3&hidden_size=32&seed=0"}},
        "prose": {"stage": "ingest_data", "config": {"source": "text:prose.txt"}},
        "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
        "before": {"stage": "evaluate", "config": {"timing": {"num_prompt_tokens": 8}}, "inputs": {"model": "original", "text": "prose"}},
        "after": {"stage": "evaluate", "config": {"timing": {"num_prompt_tokens": 8}}, "inputs": {"model": "smaller", "text": "prose"}},
        "release": {
            "stage": "register",
            "config": {"name": "wee", "gate": {"max_perplexity_ratio": 2.0}},
            "inputs": {"model": "smaller", "evaluation": "after", "baseline": "before"},
        },
    },
}  # fmt: skip
FORM = {
    "model": "random:llama?num_blocks=4&hidden_size=32", "name": "formed", "questions": "reasoning_gym:chain_sum",
    "num_rows": 10, "num_blocks": 1, "rewrite_data": False, "heal": "none", "max_answer_tokens": 4, "export_onnx": False,
    "min_accuracy_retention": 0, "max_perplexity_ratio": 0,
    "overrides": {"questions.config.verifier": "number", "block_scan.config.calibration.num_samples": 4, "scores.config.num_samples": 1},
}  # fmt: skip
ALL = ["compare", "compress", "gc", "nightly", "promote", "recipe", "rollback", "stage", "sweep"]
# Of a deployment's parameters: what the server itself refuses, and what it says.
OUT_OF_BOUNDS = [
    ("compress", {"form": FORM | {"num_blocks": 500}}, "500 is greater than the maximum of 128"),
    ("compress", {"form": FORM | {"shrink": "blocks", "num_blocks": 0}}, "0 is less than the minimum of 1"),
    ("compress", {"form": FORM | {"num_block": 1}}, "'num_block' was unexpected"),
    ("compress", {"fom": FORM}, "'fom' was unexpected"),
    ("promote", {"name": "m", "version": "newest"}, "'newest' does not match"),
    ("promote", {}, "'name' is a required property"),
    ("sweep", {"space": [{"field": "a.config.b"}]}, "not valid under any of the given schemas"),
    ("stage", {"name": "prune", "inputs": {"model": [{"stage": "../..", "key": "0" * 64}]}}, "does not match"),
]
# Nothing sets it: asking a server again at once would take the processor from what it is asked about.
BETWEEN_POLLS = threading.Event()


# Prefect lets a request wait this long for its database: who asks must be the more patient one.
DATABASE_SECONDS = 60.0


class Api:
    """Prefect's API as a browser or a script uses it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._headers: dict[str, str] | None = None

    def headers(self) -> dict[str, str]:
        """What a request carries: with a body, the token by which the server knows that no page of another origin sends it."""
        if self._headers is None:
            client = secrets.token_hex(8)
            try:
                token = self.ask(f"csrf-token?client={client}")["token"]
            except urllib.error.HTTPError as error:
                if error.code != 422:  # what a server that asks for no token says
                    raise
                self._headers = {}
                return self._headers
            self._headers = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}
        return self._headers

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        headers = {"Content-Type": "application/json"} | (self.headers() if method != "GET" else {})
        request = urllib.request.Request(f"{self.url}/{path}", data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 2 * DATABASE_SECONDS
        while True:
            try:
                with opener.open(request, timeout=1.5 * DATABASE_SECONDS) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except (urllib.error.HTTPError, TimeoutError) as error:
                # SQLite was busy: every client of Prefect asks again
                is_busy = isinstance(error, TimeoutError) or error.code == 503
                if not is_busy or time.monotonic() > deadline:
                    raise
                BETWEEN_POLLS.wait(1.0)

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask(f"deployments/name/{name}/{name}")

    def trigger(self, name: str, parameters: dict[str, Any]) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": secrets.token_hex(8)}
        return self.ask(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)["id"]

    def wait(self, run: str, *states: str, seconds: float = 600.0) -> dict[str, Any]:
        """Return the flow run once it is in one of these states, by type or by name."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.ask(f"flow_runs/{run}")
            if state["state"]["type"] in states or state["state"]["name"] in states:
                return state
            ended = state["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            assert not ended and time.monotonic() < deadline, f"{state['state']}\n{self.logs(run)}"
            BETWEEN_POLLS.wait(0.5)

    def question(self, run: str, seconds: float = 60.0) -> Any:
        """What a suspended run asks: Prefect names the state first, and keeps the question a moment later."""
        name = self.wait(run, "Suspended")["state"]["state_details"]["run_input_keyset"]["description"]
        [answer] = until(lambda: self.ask(f"flow_runs/{run}/input/filter", {"prefix": name}), seconds)
        return json.loads(answer["value"])

    def logs(self, run: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return "\n".join(entry["message"] for entry in self.ask("logs/filter", body))

    def artifact(self, run: str, key: str) -> Any:
        body = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
        [artifacts] = self.ask("artifacts/filter", body)
        return json.loads(artifacts["data"]) if artifacts["type"] == "table" else artifacts["data"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.ask("events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]


def attar(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attar.pipelines", *arguments]
    folder = Path(environment["ATTAR_HOME"]).parent
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=280, check=False
    )


def attar_here(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, where imports and fork server are warm, beside a Prefect server that is up already.

    Flows of one server alone: Prefect keeps clients of the first for the life of the process, and a dead one is asked for minutes.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from attar.pipelines.cli.main import app

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in environment.items():
            if os.environ.get(name) != value:
                patch.setenv(name, value)
        patch.chdir(Path(environment["ATTAR_HOME"]).parent)
        done = CliRunner().invoke(app, list(arguments))
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def doctor_checks(environment: Environment) -> dict[str, dict[str, str]]:
    """What `attar doctor` says, by check."""
    return {row["check"]: row for row in json.loads(attar_here(environment, "doctor", "--json").stdout)}


def environment_of(workspace: Path, clean_environment: Environment) -> Environment:
    """What a command is started with in a workspace of its own."""
    python_path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return clean_environment | {"ATTAR_HOME": str(workspace / "home"), "PYTHONPATH": python_path}


def write_recipe(workspace: Path) -> None:
    """Lay `wee.yaml` into a workspace, with the text that it reads."""
    (workspace / "prose.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    (workspace / "wee.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def free_ports(count: int) -> list[str]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(condition: Callable[[], Any], seconds: float = 300.0, what: Callable[[], str] = str) -> Any:
    """Return what the condition found once it is true; `what` tells, at the end of the time, what happened instead."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, what()
        BETWEEN_POLLS.wait(0.3)
    return result


def command_lines() -> str:
    """What every process of this machine was started as."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def owned(home: Path) -> list[psutil.Process]:
    """Every living process that was started for this home."""
    processes = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if (
                environment.get("ATTAR_HOME") == str(home)
                and OWNER in environment
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def scheduled(api: Api, deployment: str) -> list[dict[str, Any]]:
    """The runs that the server's scheduler has made: two o'clock in Berlin is midnight or one in UTC."""
    body = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return api.ask("flow_runs/filter", body)


def events_named(api: Api, name: str) -> list[dict[str, Any]]:
    """The events of a name; they travel on their own and may come a little after their run's end."""
    until(lambda: bool(api.events(name)))
    return api.events(name)


def stored_result(home: Path, run: dict[str, Any]) -> Any:
    """What a flow run returned: its state names the file that holds it."""
    key = run["state"]["data"]["storage_key"]
    path = Path(key) if Path(key).is_absolute() else home / "prefect" / "storage" / key
    content = json.loads(path.read_text())
    return json.loads(content["result"]) if "metadata" in content else content


def worker_of(home: Path) -> tuple[int, str]:
    state = read_state(home)
    assert state is not None
    worker = state.services["worker"]
    return (worker.process.pid if worker.process else 0), worker.state
