"""Which wrong science no test catches: mutate the modules that [tool.mutmut] of pyproject.toml names, and count what the quick tests kill.

python benchmarks/mutants.py [MODULE ...] [--minutes 35] [--out benchmarks/results/mutants.json]
MODULE: such as attar.compressors.quantize.blocks; none: all that are configured. What the minutes did not
suffice for is written down as not run. Verdicts of an earlier run in the same folder are kept. A mutant is killed when a test fails, or
runs into its time limit; one that no test reaches is counted as surviving.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

FOLDER = Path("mutants")
KILLED, NOT_RUN = {1, 3, 36, -24}, {None, 2}


def main(
    modules: Annotated[list[str] | None, typer.Argument()] = None,
    minutes: float = 35.0,
    out: Path = Path("benchmarks/results/mutants.json"),
) -> None:
    """Run the modules until the time is over, and write what became of each."""
    run(modules or [], 60.0 * minutes)
    tables = {name: table(path) for name, path in sorted(records().items())}
    whole = {name: table for name, table in tables.items() if table["total"] and not table["not_run"]}
    killed, total = (sum(table[key] for table in whole.values()) for key in ("killed", "total"))
    made = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("mutmut", "pytest", "torch")},
        "killed": killed,
        "total": total,
        "modules": whole,
        "partly_run": {name: table for name, table in tables.items() if 0 < table["not_run"] < table["total"]},
        "not_run": {
            name: table["total"]
            for name, table in tables.items()
            if table["total"] and table["not_run"] == table["total"]
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n")
    for name, counts in whole.items():
        print(f"{counts['killed'] / counts['total']:6.1%}  {counts['killed']:>4} of {counts['total']:<4} {name}")
    print(f"{killed} of {total} killed; survivors: python -m mutmut results, python -m mutmut show NAME")


def run(modules: list[str], seconds: float) -> None:
    """Let mutmut work for so long, on some modules or on all; what it has found by then is kept."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *(f"{module}.*" for module in modules)]
    # plugins cost each of thousands of test runs more than its tests
    lean = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    worker = subprocess.Popen(command, start_new_session=True, env=os.environ | lean)
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGINT)
        worker.wait(60)


def records() -> dict[str, Path]:
    """Return what mutmut wrote down of each module."""
    paths = FOLDER.rglob("*.py.meta")
    return {".".join(path.relative_to(FOLDER).with_suffix("").with_suffix("").parts): path for path in paths}


def table(path: Path) -> dict[str, int]:
    """Return how many mutants of a module were killed, survived, or were not run."""
    codes = Counter(json.loads(path.read_text())["exit_code_by_key"].values())
    killed = sum(codes[code] for code in KILLED)
    not_run = sum(codes[code] for code in NOT_RUN)
    return {"killed": killed, "survived": codes.total() - killed - not_run, "not_run": not_run, "total": codes.total()}


def commit() -> str:
    """Return the commit that was mutated, marked where files differ from it."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    typer.run(main)
