"""What building an artifact took: time, processor time and memory of the process that built it."""

from __future__ import annotations

import os
import resource
import sys
import time

# getrusage counts kilobytes on Linux, bytes on macOS.
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Cost:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.monotonic(), _cpu_seconds()

    def so_far(self) -> dict[str, float]:
        """Return build_seconds, cpu_seconds (user and system, ended children included) and peak_bytes.

        The peak is that of the process since its start: exact for a stage in a process of its own, an upper bound elsewhere.
        """
        return {
            "build_seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu_started, 3),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES,
        }


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
