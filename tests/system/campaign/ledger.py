"""What the campaign has tried over all its sittings: a rerun goes on behind the last input, and faults stay listed until they are mended."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import describe_environment
from tests.system.campaign.crew import Tally

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "campaign"
NUM_FAULTS_WRITTEN = 20
COMMAND = "python -m pytest -m slow tests/system/campaign"
COUNTS = ("accepted", "refused")


def read_record(path: Path, name: str) -> dict[str, Any]:
    """Return what earlier sittings wrote of a kind; of none, nothing."""
    return (json.loads(path.read_text()) if path.is_file() else {}).get(name, {})


def write_record(path: Path, name: str, record: dict[str, Any]) -> None:
    """Put a kind's record beside the others', whole or not at all: a sitting may be ended at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = json.loads(path.read_text()) if path.is_file() else {}
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({**records, name: record}, indent=1, sort_keys=True) + "\n")
    os.replace(aside, path)


def next_seeds(record: dict[str, Any], wanted: int, count: int) -> range:
    """Return the seeds of the next sitting: `count` of them, or as many as are missing to `wanted` in all."""
    first = record.get("next_seed", 0)
    return range(first, first + (count or max(0, wanted - first)))


def added(record: dict[str, Any], tally: Tally, sitting: dict[str, Any]) -> dict[str, Any]:
    """Return the record with a sitting's inputs. Inputs that a sitting tried before it was ended count as its own."""
    first, tried = sitting["first_seed"], set(tally.seeds)
    next_seed = next(seed for seed in range(first, first + len(tried) + 1) if seed not in tried)
    total = {name: record.get(name, 0) + tally.counts[name] for name in COUNTS}
    largest = {
        "max_cpu_seconds": max(record.get("max_cpu_seconds", 0.0), tally.max_cpu_seconds),
        "max_growth_mb": max(record.get("max_growth_mb", 0.0), tally.peak_growth_mb),
        "max_line_length": max(record.get("max_line_length", 0), tally.max_line_length),
    }
    faults = [*record.get("faults", []), *({**fault, "commit": sitting["commit"]} for fault in tally.faults)]
    return {
        **record, **total, **largest, **{name: sitting.get(name, "") for name in ("date", "commit", "command")},
        "next_seed": next_seed,
        "num_inputs": record.get("num_inputs", 0) + len(tried),
        "num_faults": record.get("num_faults", 0) + len(tally.faults),
        "faults": faults[:NUM_FAULTS_WRITTEN],
        "mended": record.get("mended", []),
        "sittings": [*record.get("sittings", []), {**sitting, "num_inputs": len(tried)}],
        "machine": machine(),
    }  # fmt: skip


def retried(record: dict[str, Any], tally: Tally, commit: str) -> dict[str, Any]:
    """Return the record after its faults' seeds were tried again: those that end cleanly now are mended."""
    still = {fault["seed"] for fault in tally.faults}
    mended = [{**fault, "mended_at": commit} for fault in record.get("faults", []) if fault["seed"] not in still]
    return record | {
        "faults": [fault for fault in record.get("faults", []) if fault["seed"] in still],
        "mended": [*record.get("mended", []), *mended],
    }


def begun(first_seed: int, command: str) -> dict[str, Any]:
    """Return what is known of a sitting as it begins."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "command": command, "first_seed": first_seed}  # fmt: skip


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    environment = describe_environment()
    return {name: environment[name] for name in ("processor", "num_cores", "python", "packages")}


def commit() -> str:
    """Return the commit that is tried, marked where files other than results differ from it."""
    short = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return f"{short}-dirty" if changed else short


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def note_scenario(name: str, **figures: Any) -> None:
    """Write down that a test of this folder came to its good end, when and on what; `pytest -m slow` alone writes it below build/."""
    folder = Path(os.environ.get("ATTAR_CAMPAIGN_RESULTS", "build"))
    earlier = read_record(folder / "scenarios.json", name)
    passed = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": COMMAND,
        **figures,
    }
    record = {"num_passed": earlier.get("num_passed", 0) + 1, **passed, "machine": machine()}
    write_record(folder / "scenarios.json", name, record)
