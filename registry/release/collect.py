"""Garbage collection: what no registered model and no recent run needs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from attar.registry.artifacts.files import delete, folder_bytes, key_lock
from attar.registry.artifacts.lineage import needed_keys
from attar.registry.artifacts.store import Store
from attar.registry.release.cached_copy import remove_copies
from attar.registry.release.model_registry import registered_keys
from attar.registry.tracking.run_record import run_records

# What stands for the stage of a work folder that a failed or killed stage has left.
UNFINISHED = "unfinished work"
# And for that of a damaged artifact.
DAMAGED = "damaged"
# And for that of a copy that something was served from.
PULLED = "pulled copy"


class DamagedLineageError(ValueError):
    """What a kept artifact was made from cannot be read, so that nothing can be told to be unneeded."""

    exit_code = 1


def collect_garbage(home: Path, *, keep_runs: int, is_dry_run: bool) -> list[dict[str, Any]]:
    """Delete unneeded artifacts and abandoned work folders; return what went as {stage, key, num_bytes}.

    Kept: the whole lineage of every registered version, whatever its alias, and what the newest `keep_runs` runs made.
    Copies that nothing is served from go too. A work folder goes only if no process holds its lock. Damaged artifacts go
    but for those of the newest runs, which mend them.
    Raises DamagedLineageError, with nothing deleted, where a registered version was made from one: only its manifest says from what else.
    """
    store = Store(home)
    recent = _recent_keys(home, keep_runs)
    needed = registered_keys() | recent
    damaged = dict(store.damaged())
    artifacts = [artifact for artifact in store.artifacts() if artifact.path.parent not in damaged]
    needed |= needed_keys(store, [artifact for artifact in artifacts if artifact.key in needed])
    for folder, reason in damaged.items():
        if folder.name in needed - recent:
            raise DamagedLineageError(
                f"{folder.parent.name} artifact {folder.name[:12]} is needed, but damaged ({reason}): nothing is deleted before"
                f" the run that made it has mended it; to give it up, delete {folder}"
            )
    removed = _broken(store, [folder for folder in damaged if folder.name not in recent], is_dry_run)
    for artifact in artifacts:
        if artifact.key not in needed:
            manifest = store.manifest(artifact)
            removed.append({"stage": manifest["stage"], "key": artifact.key, "num_bytes": manifest["num_bytes"]})
            if not is_dry_run:
                store.remove(artifact)
    copies = [
        {"stage": PULLED, "key": name, "num_bytes": size} for name, size in remove_copies(home, is_dry_run=is_dry_run)
    ]
    return removed + copies + _abandoned_work(home, is_dry_run)


def _broken(store: Store, folders: Iterable[Path], is_dry_run: bool) -> list[dict[str, Any]]:
    """Delete what is no whole artifact, unless a process is mending it."""
    removed = []
    for folder in folders:
        with suppress(Timeout), key_lock(store.root, folder.name).acquire(timeout=0):
            if not store.holds(folder.parent.name, folder.name):
                removed.append({"stage": DAMAGED, "key": folder.name, "num_bytes": folder_bytes(folder)})
                if not is_dry_run:
                    store.discard(folder)
    return removed


def _recent_keys(home: Path, num_runs: int) -> set[str]:
    records = run_records(home)[-num_runs:] if num_runs else []
    # shards are needed until they are gathered
    return {
        key for record in records for node in record.nodes.values() for key in ([node.key] if node.key else node.shards)
    }


def _abandoned_work(home: Path, is_dry_run: bool) -> list[dict[str, Any]]:
    removed = []
    for folder in sorted((home / "work").glob("*")):
        with suppress(Timeout), key_lock(home, folder.name).acquire(timeout=0):
            removed.append({"stage": UNFINISHED, "key": folder.name, "num_bytes": folder_bytes(folder)})
            if not is_dry_run:
                delete(folder)
    return removed
