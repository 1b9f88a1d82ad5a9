"""Runs of this home. What each came to, how one stands node by node, and where what it said is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attar.pipelines.operate.service_state import ProcessMark
from attar.registry.artifacts.environment import attar_home
from attar.registry.tracking.run_record import RunRecord, run_records

# Older ones have their logs too: `attar status RUN` says where.
NUM_LOGGED_RUNS = 5
DONE = ("Completed", "Cached")


def list_runs() -> list[dict[str, Any]]:
    """Return the runs of this home, newest first."""
    return [
        {
            "run": record.id,
            "recipe": record.recipe,
            "state": run_state(record),
            "nodes": f"{sum(node.state in DONE for node in record.nodes.values())}/{len(record.nodes)}",
            "seconds": f"{record.seconds:,.1f}" if record.seconds else "-",
        }
        for record in reversed(run_records(attar_home()))
    ]


def list_logs() -> list[dict[str, Any]]:
    """Return the logs of the newest runs and of the services, newest first."""
    home = attar_home()
    folders = [record.folder / "logs" for record in run_records(home)[-NUM_LOGGED_RUNS:]]
    logs = [path for folder in [*folders, home / "services"] for path in folder.rglob("*.log") if path.is_file()]
    return [
        {
            "log": str(path.relative_to(home)),
            "kB": f"{path.stat().st_size / 1e3:,.1f}",
            "written": datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M"),
        }
        for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True)
    ]


def node_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Return the nodes of a run in their order, each with its state, time and cause."""
    return [
        {
            "node": name,
            "stage": node.stage,
            "state": node.state,
            "seconds": f"{node.seconds:,.1f}" if node.seconds else "-",
            "key": node.key[:12] or "-",
            **({"cause": node.cause} if any(other.cause for other in record.nodes.values()) else {}),
        }
        for name, node in record.nodes.items()
    ]


def run_state(record: RunRecord) -> str:
    """Return what became of a run: running, killed, stopped, failed or done."""
    states = {node.state for node in record.nodes.values()}
    if record.is_open:
        is_alive = ProcessMark(record.pid, record.pid_created).process is not None
        return "running" if is_alive else "stopped" if "Stopped" in states else "killed"
    return (
        "failed"
        if record.has_failed
        else "stopped"
        if "Stopped" in states
        else "done"
        if states <= set(DONE)
        else "killed"
    )


def log_folder(record: RunRecord) -> Path:
    """Return where the nodes of a run write what they say."""
    return record.folder / "logs"
