"""What building an artifact took: time, processor time and memory of the process that built it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

# getrusage counts kilobytes on Linux, bytes on macOS.
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Cost:
    """Counts from its making on, beside what other processes have spent on parts of the work."""

    def __init__(self, spent: Sequence[Mapping[str, Any]] = ()) -> None:
        self._started, self._cpu_started = time.monotonic(), _cpu_seconds()
        self._spent = spent

    def so_far(self) -> dict[str, float]:
        """Return build_seconds, cpu_seconds (user and system, ended children included) and peak_bytes.

        The peak is that of the process since its start: exact for a stage in a process of its own, an upper bound elsewhere.
        Of work in shards the seconds are those of all workers, one after another, and the peak is the largest of theirs.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
        return {
            "build_seconds": round(time.monotonic() - self._started + self._before("build_seconds"), 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu_started + self._before("cpu_seconds"), 3),
            "peak_bytes": max(peak, *(int(cost.get("peak_bytes", 0)) for cost in self._spent), 0),
        }

    def _before(self, name: str) -> float:
        return sum(float(cost.get(name, 0.0)) for cost in self._spent)


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
