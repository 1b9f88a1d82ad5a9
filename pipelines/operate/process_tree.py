"""A process with all that it started: found, and ended gently, then for good."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

import psutil


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


def dump_stacks(processes: Sequence[psutil.Process], *, grace_seconds: float) -> None:
    """Abort Python processes that run with PYTHONFAULTHANDLER: each writes the stacks of its threads to its standard error and ends."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)
    psutil.wait_procs(processes, timeout=grace_seconds)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
