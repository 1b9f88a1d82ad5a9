"""Time a node alone on a worker of one core, and in two shards on two such workers: what sharing it among workers brings.

python benchmarks/operate/shards.py [NUM_ROWS] [NUM_ROUNDS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import psutil

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

RECIPE = """
name: shared
nodes:
  original: {stage: ingest_model, config: {source: "random:llama?num_blocks=8&hidden_size=256&seed=0"}}
  sums: {stage: ingest_data, config: {source: "jsonl:sums.jsonl"}}
  rewritten:
    stage: self_data
    config: {drawing: {max_new_tokens: 64, temperature: 1.0}, rows_per_shard: 16, batch_size: 16, precision: float32}
    inputs: {model: original, data: sums}
    execution: share
"""


def main() -> None:
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"question": f"What is {a} plus {a}?", "answer": f"It is {2 * a}."} for a in range(num_rows)]
        (Path(folder) / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (Path(folder) / "shared.yaml").write_text(RECIPE)
        environment = os.environ | {"ATTAR_HOME": str(Path(folder) / "home")}
        ports = ["--prefect-port", "4690", "--mlflow-port", "5690", "--worker-port", "4695"]
        attar(environment, folder, "up", *ports)
        workers: list[subprocess.Popen[bytes]] = []
        try:
            attar(environment, folder, "pool", "share")
            workers = [worker(environment, folder, core) for core in sorted(os.sched_getaffinity(0))[:2]]
            run(environment, folder, 1, "sums.config.max_rows=16")  # the first run of a worker imports from a cold disk
            seconds = {count: [] for count in (1, 2)}
            for index in range(num_rounds):
                for count in (1, 2) if index % 2 == 0 else (2, 1):
                    seed = f"rewritten.config.drawing.seed={2 * index + count}"
                    seconds[count].append(run(environment, folder, count, seed))
        finally:
            for process in workers:
                for child in (*psutil.Process(process.pid).children(recursive=True), process):
                    child.kill()
            attar(environment, folder, "down")
    for count, some in seconds.items():
        print(f"{count} worker(s): {', '.join(f'{value:.1f}' for value in some)} s")
    print(f"{num_rows} rows: {median(seconds[1]) / median(seconds[2]):.2f} times as fast with two workers of one core")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def run(environment: dict[str, str], folder: str, num_shards: int, override: str) -> float:
    """Return the seconds of the node, from its asking for workers to its artifact."""
    words = ["run", "shared.yaml", "--set", f"rewritten.shards={num_shards}", "--set", override, "--json"]
    node = json.loads(attar(environment, folder, *words).stdout)["nodes"]["rewritten"]
    assert node["state"] == "Completed", node
    return node["seconds"]


def worker(environment: dict[str, str], folder: str, core: int) -> subprocess.Popen[bytes]:
    """Start a worker that has one core, it and all that it starts."""
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "attar.pipelines", "worker", "share"]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def attar(environment: dict[str, str], folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attar.pipelines", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    recorded(main, has_table=False)
