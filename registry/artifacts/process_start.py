"""When a process began, told so that a clock set back or forth does not change the answer. A live run must not pass for a dead one."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

# Two readings of one process are equal; 0.01 s is what Linux counts in.
SAME_SECONDS = 0.005
# What earlier versions wrote: seconds since 1970, which psutil works out from the clock of now.
SAME_BY_CLOCK_SECONDS = 1.0


def start_of(pid: int) -> float:
    """Return the seconds since the machine's boot at which a process began; where the system has no /proc, since 1970.

    Raises psutil.NoSuchProcess.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return psutil.Process(pid).create_time()
    # the name, in parentheses, may hold anything; the start is the 22nd field, the 20th behind it
    return int(status.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def is_same_process(pid: int, began: float) -> bool:
    """Say whether the process with this id began then. A later process may have the same id."""
    try:
        if abs(start_of(pid) - began) < SAME_SECONDS:
            return True
        return abs(psutil.Process(pid).create_time() - began) < SAME_BY_CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
