"""End processes with all that they started, and what a killed run left behind. A server outlives the process that started it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import psutil

from attar.registry.artifacts.process_start import start_of

# Set by a run to its own process id and inherited by all that it starts.
OWNER = "ATTAR_RUN_PID"


def claim_children() -> None:
    """Mark every process that this one starts from now on as its own."""
    os.environ[OWNER] = str(os.getpid())


def end_orphans() -> int:
    """Kill processes of this user whose owning run is dead, except this one; return how many."""
    num_killed = 0
    for process in psutil.process_iter():
        try:
            owner = process.environ().get(OWNER, "")
            if owner and process.pid != os.getpid() and not _is_alive(int(owner), process):
                process.kill()
                num_killed += 1
        except (psutil.Error, ValueError):  # gone already, or not ours to look at
            continue
    return num_killed


def owned_by(pid: int) -> list[int]:
    """Return the processes that were started under an owner, directly or not, itself left out."""
    pids = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(OWNER) == str(pid) and process.pid != pid:
                pids.append(process.pid)
        except psutil.Error:  # gone already, or not ours to look at
            continue
    return pids


def tree_of(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, the process first; empty when it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_tree(processes: Sequence[psutil.Process], *, grace_seconds: float) -> None:
    """Ask processes to end, and kill those that are still there after the grace."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in alive:
        # what it started in the meantime goes with it
        for member in (process, *_children(process)):
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
    psutil.wait_procs(alive, timeout=5.0)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_alive(owner: int, child: psutil.Process) -> bool:
    """Say whether an owner is alive. Its process id may have been given to someone else since: an owner is older than its child."""
    try:
        process = psutil.Process(owner)
        return process.status() != psutil.STATUS_ZOMBIE and start_of(owner) <= start_of(child.pid)
    except psutil.NoSuchProcess:
        return False
