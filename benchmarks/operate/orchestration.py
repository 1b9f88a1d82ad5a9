"""What orchestration costs: `attar --help`, and the time of a tiny run that is not the stages' own work.

python benchmarks/operate/orchestration.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attar.pipelines.operate.prefect_home import configure_prefect

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

ATTAR = Path(sys.executable).with_name("attar")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        help_seconds = statistics.median(timed([str(ATTAR), "--help"]) for _ in range(7))
        configure_prefect(home)
        from prefect.server.api.server import SubprocessASGIServer  # reads its settings when imported

        server = SubprocessASGIServer()
        server.start(timeout=180)
        environment = os.environ | {"ATTAR_HOME": folder, "PREFECT_API_URL": server.api_url}
        first, again = (run_tiny(environment) for _ in range(2))
        server.stop()
        print("| measure | seconds |\n|---|---|")
        print(f"| `attar --help`, median of 7 | {help_seconds:.2f} |")
        print(f"| tiny, {len(first['nodes'])} nodes, built | {first['seconds']:.1f} |")
        print(f"| a node beyond its stage's work, built | {overhead(first, home):.2f} |")
        print(f"| a node beyond its stage's work, cached | {again['seconds'] / len(again['nodes']):.2f} |")


def run_tiny(environment: dict[str, str]) -> dict:
    done = subprocess.run(
        [str(ATTAR), "run", "tiny", "--json"], capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout)


def overhead(run: dict, home: Path) -> float:
    """Return the seconds a node of a run that its stages did not work. Stages that overlapped count as if they had not, which favours nobody."""
    work = 0.0
    for node in run["nodes"].values():
        manifest = home / "store" / node["stage"] / node["key"] / "manifest.json"
        work += json.loads(manifest.read_text())["build_seconds"]
    return max(0.0, run["seconds"] - work) / len(run["nodes"])


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    recorded(main)
