"""The record of one recipe run: what each node did, kept as a small JSON file that is always whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attar.registry.artifacts.disk_space import DiskFullError
from attar.registry.artifacts.environment import describe_environment
from attar.registry.artifacts.files import is_disk_full, write_synced
from attar.registry.artifacts.process_start import start_of

logger = logging.getLogger(__name__)
RECORD = "run.json"
# In the same folder: what past runs predicted of its models, and what came.
PREDICTIONS = "predictions.json"
STAMP, STAMP_LENGTH = "%Y%m%d-%H%M%S", 15


@dataclass
class NodeRecord:
    """What one node did in a run. `state`: Pending, Running, Completed, Cached, Failed, Skipped, Stopped."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, list[str]]
    state: str = "Pending"
    key: str = ""
    fingerprint: str = ""
    # when it began, in seconds since the run did, and how long it took
    started_seconds: float = 0.0
    seconds: float = 0.0
    cause: str = ""
    details: str = ""
    # keys of its shards, where several workers share it
    shards: list[str] = field(default_factory=list)


@dataclass
class RunRecord:
    """One run of a recipe, written to `runs/<id>/run.json` at every change."""

    folder: Path
    recipe: str
    recipe_fingerprint: str
    nodes: dict[str, NodeRecord]
    description: str = ""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    # False once it has ended in any way that could be told
    is_open: bool = True
    # the process that runs it, with its start, since process ids come round again
    pid: int = field(default_factory=os.getpid)
    pid_created: float = field(default_factory=lambda: start_of(os.getpid()))
    mlflow_run_id: str = ""
    prefect_flow_run_id: str = ""
    environment: dict[str, Any] = field(default_factory=describe_environment)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    # whether the file stands behind what is known here, for want of space
    _is_behind: bool = field(default=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Name of the run: date, time, recipe and a random part."""
        return self.folder.name

    @property
    def has_failed(self) -> bool:
        """Whether a node failed or could not start."""
        return any(node.state in ("Failed", "Skipped") for node in self.nodes.values())

    def update(self, node: str, **changes: Any) -> None:
        """Change a node's record and write the file."""
        with self._lock:
            for name, value in changes.items():
                setattr(self.nodes[node], name, value)
            self._write()

    def stop(self, cause: str) -> None:
        """Mark the nodes that were running as stopped. The run stays open, until MLflow and Prefect have been told too."""
        with self._lock:
            for node in self.nodes.values():
                if node.state == "Running":
                    node.state, node.cause = "Stopped", cause
            self._write()

    def close(self) -> None:
        """Mark the run as ended."""
        with self._lock:
            self.is_open = False
            self._write()

    def begin(self) -> None:
        """Write the file for the first time. Raises DiskFullError, in one line, where it has no space: a run must be seen."""
        with self._lock:
            self._write()
        if self._is_behind:
            message = f"no space for the record of a run under {self.folder.parent}: make some, and run the same command again"
            raise DiskFullError(errno.ENOSPC, message)

    def save(self) -> None:
        """Write the file."""
        with self._lock:
            self._write()

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        values = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        values |= {"folder": str(self.folder), "nodes": {name: asdict(node) for name, node in self.nodes.items()}}
        return {"id": self.id, **values}

    def _write(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_synced(self.folder / RECORD, json.dumps(self.as_dict(), indent=1))
        except OSError as error:
            if not is_disk_full(error):
                raise
            if not self._is_behind:  # no artifact hangs on it: the run goes on, and the next change writes it whole
                logger.warning("no space for the record of run %s: what it did is written when there is", self.id)
            self._is_behind = True
        else:
            self._is_behind = False


def new_run_folder(home: Path, recipe: str) -> Path:
    """Return a folder name for a new run. Names sort by time, and behind every run that is there, should the clock have been set back."""
    return home / "runs" / f"{_stamp(home, datetime.now(UTC))}-{recipe}-{secrets.token_hex(2)}"


def _stamp(home: Path, now: datetime) -> str:
    newest = max((path.parent.name[:STAMP_LENGTH] for path in (home / "runs").glob(f"*/{RECORD}")), default="")
    stamp = now.strftime(STAMP)
    if stamp >= newest:
        return stamp
    try:
        return (datetime.strptime(newest, STAMP) + timedelta(seconds=1)).strftime(STAMP)
    except ValueError:  # a folder that somebody else has put there
        return stamp


def find_run(home: Path, run_id: str) -> RunRecord:
    """Return a run by the start of its id; `latest` is the newest. Raises ValueError when none or several match."""
    folders = _folders(home)
    if not folders:
        raise ValueError(f"run {run_id!r}: nothing has been run under {home} yet; `attar run tiny` takes a minute")
    matching = folders[-1:] if run_id == "latest" else [folder for folder in folders if folder.name.startswith(run_id)]
    if len(matching) != 1:
        raise ValueError(f"run {run_id!r}: {len(matching)} runs match; `attar list runs` has their ids")
    return _read(matching[0])


def run_records(home: Path, newest: int = 0) -> list[RunRecord]:
    """Return the runs of a home, or so many of the newest, oldest first. A record that is damaged is told of and left out."""
    records = []
    for folder in _folders(home)[-newest:]:
        try:
            records.append(_read(folder))
        except ValueError as error:
            logger.warning("%s", error)
    return records


def open_runs(home: Path) -> list[RunRecord]:
    """Return the runs that have not ended, or died without saying so."""
    return [record for record in run_records(home) if record.is_open]


def _folders(home: Path) -> list[Path]:
    return sorted(path.parent for path in (home / "runs").glob(f"*/{RECORD}"))


def _read(folder: Path) -> RunRecord:
    """Return the run of a folder. Raises ValueError in one line for a record that is damaged."""
    try:
        if not (folder / RECORD).is_file():
            raise ValueError("no regular file")
        values = json.loads((folder / RECORD).read_text())
        values.pop("id")
        nodes = {name: NodeRecord(**node) for name, node in values.pop("nodes").items()}
        record = RunRecord(**{**values, "folder": folder, "nodes": nodes})
        _check_types(record)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(
            f"the record of run {folder.name} is damaged ({type(error).__name__}): what it made is kept; delete {folder} to be rid of it"
        ) from error
    return record


def _check_types(record: RunRecord) -> None:
    for entry in (record, *record.nodes.values()):
        for field_of in fields(entry):
            default = field_of.default
            value = getattr(entry, field_of.name)
            if isinstance(default, str | bool | float) and not isinstance(value, type(default) | int):
                raise TypeError(field_of.name)
    if not isinstance(record.recipe, str) or not isinstance(record.started, str):
        raise TypeError("recipe")
