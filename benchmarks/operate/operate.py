"""What operating costs: `attar up` to both pages, a trigger to its first stage, and many runs at once, none lost and none doubled.

python benchmarks/operate/operate.py [NUM_RUNS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from csrf_token import headers

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

AT_ONCE = 4
NUM_TRIGGERS = 5
# Two light stages, each run's model another one: what is measured is the orchestration.
RECIPE = """
name: load
nodes:
  original: {stage: ingest_model, config: {source: "random:llama?num_blocks=3&hidden_size=32&seed=0"}}
  smaller: {stage: prune, config: {blocks: [1]}, inputs: {model: original}}
"""
BETWEEN_POLLS = threading.Event()


def main() -> None:
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "load.yaml").write_text(RECIPE)
        environment = os.environ | {"ATTAR_HOME": f"{folder}/home"}
        started = time.perf_counter()
        ports = ["--prefect-port", "4390", "--mlflow-port", "5390", "--worker-port", "4395"]
        try:
            site = attar(environment, folder, "up", *ports, "--heavy-at-once", str(AT_ONCE))
            up_seconds = time.perf_counter() - started
            waits = [first_stage_seconds(site["api"], index) for index in range(NUM_TRIGGERS)]
            seconds, states, num_tasks = many(site["api"], num_runs)
        finally:
            attar(environment, folder, "down")
        print("| measure | reached |\n|---|---|")
        print(f"| `attar up`, deployments included | {up_seconds:.0f} s |")
        print(
            f"| trigger to first stage, warm worker, median of {NUM_TRIGGERS} (largest) | {statistics.median(waits):.1f} s ({max(waits):.1f} s) |"
        )
        print(f"| {num_runs} runs, {AT_ONCE} at a time: {dict(states)}, {num_tasks} task runs | {seconds:.0f} s |")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def first_stage_seconds(api: str, seed: int) -> float:
    """Return the seconds from the request until a task of the run is Running, on the server's clock."""
    run = trigger(api, 10_000 + seed)
    wait(api, {run})
    tasks = ask(api, "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    created = datetime.fromisoformat(ask(api, f"flow_runs/{run}")["created"])
    return min((datetime.fromisoformat(task["start_time"]) - created).total_seconds() for task in tasks)


def many(api: str, num_runs: int) -> tuple[float, Counter[str], int]:
    """Trigger all at once; return the seconds until the last has ended, how they ended, and how many tasks ran in all."""
    started = time.perf_counter()
    runs = {trigger(api, seed) for seed in range(num_runs)}
    assert len(runs) == num_runs
    states = wait(api, runs)
    seconds = time.perf_counter() - started
    tasks = Counter[tuple[str, str]]()
    for run in runs:
        for entry in ask(api, "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}}):
            tasks[run, entry["name"]] += 1
    assert set(tasks.values()) == {1}, "a node was run twice in one run"
    return seconds, Counter(states.values()), sum(tasks.values())


def trigger(api: str, seed: int) -> str:
    deployment = ask(api, "deployments/name/recipe/recipe")["id"]
    overrides = [f"original.config.source=random:llama?num_blocks=3&hidden_size=32&seed={seed}"]
    parameters = {"name": "load.yaml", "overrides": overrides}
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": f"load-{seed}"}
    return ask(api, f"deployments/{deployment}/create_flow_run", body)["id"]


def wait(api: str, runs: set[str]) -> dict[str, str]:
    ended: dict[str, str] = {}
    while len(ended) < len(runs):
        for entry in ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": sorted(runs - ended.keys())}}}):
            if entry["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                ended[entry["id"]] = entry["state"]["name"]
        BETWEEN_POLLS.wait(1.0)
    return ended


def ask(api: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data=data, headers=headers(api))
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:  # SQLite was busy: every client of Prefect asks again
                raise
            BETWEEN_POLLS.wait(1.0)


def attar(environment: dict[str, str], folder: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", "attar.pipelines", *arguments, "--json"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    recorded(main)
