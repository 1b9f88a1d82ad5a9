"""Kill the worker at random moments over tiny runs and look what is left: every run ends, no process stays, no artifact is broken.

Every second time the worker goes alone, as by the system for want of memory; else all it has started goes with it, as when a machine dies.

python benchmarks/operate/worker_kills.py [NUM_KILLS] [SEED]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from csrf_token import headers

from attar.pipelines.operate.service_state import read_state
from attar.registry.artifacts.store import Store
from attar.stages.runtime.orphans import OWNER

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

RECIPE = """
name: killed
nodes:
  original: {stage: ingest_model, config: {source: "random:llama?num_blocks=3&hidden_size=32&seed=0"}}
  smaller: {stage: prune, config: {blocks: [1]}, inputs: {model: original}}
"""
# A tiny run takes this long from its trigger on a warm worker; the kill falls somewhere in it.
MAX_DELAY_SECONDS = 25.0
ENDED = ("COMPLETED", "CRASHED", "FAILED", "CANCELLED")
PAUSE = threading.Event()


def main() -> None:
    num_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "killed.yaml").write_text(RECIPE)
        home = Path(folder) / "home"
        environment = os.environ | {"ATTAR_HOME": str(home)}
        ports = ["--prefect-port", "4490", "--mlflow-port", "5490", "--worker-port", "4495"]
        api = json.loads(attar(environment, folder, "up", *ports, "--heavy-at-once", "4", "--json").stdout)["api"]
        try:
            runs = [kill_once(api, home, index, chance) for index in range(num_kills)]
            first = {run: wait(api, run) for run in runs}
            crashed = [run for run, state in first.items() if state["type"] != "COMPLETED"]
            unexplained = [run for run in crashed if not (first[run].get("message") or "")]
            for run in crashed:
                retry(api, run)
            second = {run: wait(api, run) for run in crashed}
            store = Store(home)
            for artifact in store.artifacts():
                store.verify(artifact)
            left = orphans(home)
        finally:
            attar(environment, folder, "down")
        print(f"{num_kills} kills; ended: {dict(Counter(state['type'] for state in first.values()))}")
        print(
            f"reasons: {dict(Counter(first[run]['message'][:70] for run in crashed))}; without a reason: {len(unexplained)}"
        )
        print(f"after a retry: {dict(Counter(state['type'] for state in second.values()))}")
        print(f"orphan processes: {left}; artifacts verified: {sum(1 for _ in store.artifacts())}, broken: 0")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def attar(environment: dict[str, str], folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attar.pipelines", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)


def kill_once(api: str, home: Path, index: int, chance: random.Random) -> str:
    """Trigger a run, wait a random while, kill the worker (with all its tree every second time), wait until it is back."""
    worker = until(lambda: healthy_worker(home))
    deployment = ask(api, "deployments/name/recipe/recipe")["id"]
    parameters = {
        "name": "killed.yaml",
        "overrides": [f"original.config.source=random:llama?num_blocks=3&hidden_size=32&seed={index}"],
    }
    run = ask(
        api,
        f"deployments/{deployment}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": f"kill-{index}"},
    )["id"]
    PAUSE.wait(chance.uniform(0.0, MAX_DELAY_SECONDS))
    top = psutil.Process(worker)
    for process in (*(top.children(recursive=True) if index % 2 else ()), top):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    until(lambda: healthy_worker(home) not in (0, worker))
    print(
        f"kill {index + 1}: {'all' if index % 2 else 'the worker'}, run {ask(api, f'flow_runs/{run}')['state']['name']}",
        flush=True,
    )
    return run


def healthy_worker(home: Path) -> int:
    state = read_state(home)
    service = state.services["worker"] if state else None
    return service.process.pid if service and service.process and service.state == "healthy" else 0


def retry(api: str, run: str) -> None:
    ask(api, f"flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True})


def wait(api: str, run: str) -> dict[str, Any]:
    return until(lambda: (state := ask(api, f"flow_runs/{run}")["state"])["type"] in ENDED and state, 1200.0)


def orphans(home: Path) -> int:
    """Return the processes of runs that are not the services' own, a while after the last run."""
    state = read_state(home)
    assert state is not None
    services = {mark.pid for service in state.services.values() if (mark := service.process)}

    def left() -> list[psutil.Process]:
        survivors = []
        for process in psutil.process_iter():
            try:
                values = process.environ()
                above = {process.pid, *(parent.pid for parent in process.parents())}
                if (
                    values.get("ATTAR_HOME") == str(home)
                    and OWNER in values
                    and not above & (services | {state.supervisor.pid})
                ):
                    survivors.append(process)
            except psutil.Error:
                continue
        return survivors

    deadline = time.monotonic() + 60
    while left() and time.monotonic() < deadline:
        PAUSE.wait(1.0)
    return len(left())


def ask(api: str, path: str, body: Any = None) -> Any:
    """Ask the server, and again while its SQLite is busy, as Prefect's own client does."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, headers(api))
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
        PAUSE.wait(1.0)


def until(condition: Any, seconds: float = 300.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        PAUSE.wait(0.5)
    return result


if __name__ == "__main__":
    recorded(main, has_table=False)
