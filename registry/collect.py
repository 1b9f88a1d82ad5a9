"""Garbage collection: what no registered model and no recent run needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from registry.lineage import needed_keys
from registry.model_registry import registered_keys
from registry.run_record import RECORD
from registry.store import Store

# What stands for the stage of a work folder that a failed or killed stage has left.
UNFINISHED = "unfinished work"


def collect_garbage(home: Path, *, keep_runs: int, is_dry_run: bool) -> list[dict[str, Any]]:
    """Delete unneeded artifacts and abandoned work folders; return what went as {stage, key, num_bytes}.

    Kept: the whole lineage of every registered version, whatever its alias, and what the newest `keep_runs` runs made.
    A work folder goes only if no process holds its lock.
    """
    store = Store(home)
    kept = registered_keys() | _recent_keys(home, keep_runs)
    artifacts = list(store.artifacts())
    kept |= needed_keys(store, [artifact for artifact in artifacts if artifact.key in kept])
    removed = []
    for artifact in artifacts:
        if artifact.key not in kept:
            manifest = store.manifest(artifact)
            removed.append({"stage": manifest["stage"], "key": artifact.key, "num_bytes": manifest["num_bytes"]})
            if not is_dry_run:
                store.remove(artifact)
    return removed + _abandoned_work(home, is_dry_run)


def _recent_keys(home: Path, num_runs: int) -> set[str]:
    records = sorted((home / "runs").glob(f"*/{RECORD}"))[-num_runs:] if num_runs else []
    return {node["key"] for path in records for node in json.loads(path.read_text())["nodes"].values() if node["key"]}


def _abandoned_work(home: Path, is_dry_run: bool) -> list[dict[str, Any]]:
    removed = []
    for folder in sorted((home / "work").glob("*")):
        lock = FileLock(home / "locks" / f"{folder.name}.lock")
        (home / "locks").mkdir(parents=True, exist_ok=True)
        try:
            with lock.acquire(timeout=0):
                num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                removed.append({"stage": UNFINISHED, "key": folder.name, "num_bytes": num_bytes})
                if not is_dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
    return removed
