"""The campaign: `python -m tests.system.campaign recipes stores` tries all inputs of these kinds and writes down how they ended."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import describe_environment
from tests.system.campaign.crew import Tally, try_inputs

# One module of this folder each, with COUNT, CLEAN, prepare(scratch) and attempt(prepared, seed, folder).
KINDS = ("recipes", "rows", "stores", "gguf", "folders")
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "campaign.json"
NUM_FAULTS_WRITTEN = 20


def main() -> None:
    """Try, print, and write each kind's figures as it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--count", type=int, default=0, help="inputs a kind; 0: as many as its module says")
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the next ones follow")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in options.kinds:
        count = options.count or importlib.import_module(f"tests.system.campaign.{name}").COUNT
        started = time.monotonic()
        tally = try_inputs(name, range(options.seed, options.seed + count), options.workers)
        figures = _figures(tally, count, options.seed, time.monotonic() - started)
        print(json.dumps({name: {**figures, "faults": figures["faults"][:3]}}, indent=1))
        _write(options.results, name, figures)
    sys.exit(0)


def _figures(tally: Tally, count: int, seed: int, seconds: float) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "command": " ".join(["python", "-m", "tests.system.campaign", *sys.argv[1:]]),
        "machine": {"platform": platform.platform(), **describe_environment()},
        "first_seed": seed,
        "num_inputs": count,
        "seconds": round(seconds, 1),
        "accepted": tally.counts["accepted"],
        "refused": tally.counts["refused"],
        "faults_counted": tally.counts["fault"],
        "max_cpu_seconds": tally.max_cpu_seconds,
        "max_growth_mb": tally.peak_growth_mb,
        "max_line_length": tally.max_line_length,
        "faults": tally.faults[:NUM_FAULTS_WRITTEN],
    }


def _write(path: Path, name: str, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**written, name: figures}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
