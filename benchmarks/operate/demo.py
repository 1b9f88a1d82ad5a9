"""The demo from nothing, and the same command again: wall time, peak memory of the process tree, nodes reused.

python benchmarks/operate/demo.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

ATTAR = Path(sys.executable).with_name("attar")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("| run | wall s | flow s | peak RSS GB | nodes |\n|---|---|---|---|---|")
        for label in ("first", "again"):
            wall, peak, run = measure(os.environ | {"ATTAR_HOME": folder})
            states = [node["state"] for node in run["nodes"].values()]
            counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
            print(f"| {label} | {wall:.1f} | {run['seconds']:.1f} | {peak / 1e9:.2f} | {counts} |", flush=True)
        columns = list(dict.fromkeys(name for row in run["table"] for name in row))
        print("\nwhat the demo made\n")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for row in run["table"]:
            print("| " + " | ".join(str(row.get(name, "")) for name in columns) + " |")


def measure(environment: dict[str, str]) -> tuple[float, int, dict]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(ATTAR), "run", "demo", "--json"], stdout=subprocess.PIPE, text=True, env=environment
    )
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    return time.perf_counter() - started, peak[0], json.loads(output)


def watch(pid: int, peak: list[int]) -> None:
    """Sum the proportional memory of the tree four times a second: pages shared with the fork server count once."""
    while psutil.pid_exists(pid):
        total = 0
        try:
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                total += process.memory_full_info().pss
        except psutil.Error:
            continue
        peak[0] = max(peak[0], total)
        time.sleep(0.25)


if __name__ == "__main__":
    recorded(main)
