"""Worker processes with limits: each input is tried in one of them, and a watchdog ends those that hang."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

# Of processor time for one input; the wall is for waiting that takes none.
MAX_CPU_SECONDS = 5.0
MAX_WALL_SECONDS = 60.0
# A worker imports torch and prepares before its first input.
START_SECONDS = 300.0
READY = "ready\n"


@dataclass
class Tally:
    """How the inputs of one kind ended; `faults` are those that ended neither accepted nor refused in lines."""

    seeds: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    max_cpu_seconds: float = 0.0
    max_line_length: int = 0
    peak_growth_mb: float = 0.0

    def add(self, verdict: dict[str, Any]) -> None:
        """Count one input."""
        self.seeds.append(verdict["seed"])
        self.counts[verdict["end"]] += 1
        self.max_cpu_seconds = max(self.max_cpu_seconds, verdict.get("cpu_seconds", 0.0))
        self.peak_growth_mb = max(self.peak_growth_mb, verdict.get("growth_mb", 0.0))
        self.max_line_length = max(self.max_line_length, verdict.get("line_length", 0))
        if verdict["end"] == "fault":
            self.faults.append(verdict)


def try_inputs(
    kind: str,
    seeds: Iterable[int],
    num_workers: int = 1,
    deadline: float = math.inf,
    after_each: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Try the inputs of a kind that the seeds stand for, each once, until the deadline of `time.monotonic`; return how they ended."""
    tally, pending, lock = Tally(), deque(seeds), threading.Lock()

    def serve() -> None:
        worker = _Worker(kind)
        while True:
            with lock:
                if not pending or time.monotonic() > deadline:
                    break
                seed = pending.popleft()
            verdict = worker.verdict(seed)
            if worker.process.poll() is not None:
                worker = _Worker(kind)
            with lock:
                tally.add(verdict)
                after_each(tally)
        worker.end()

    with ThreadPoolExecutor(num_workers) as pool:
        for served in [pool.submit(serve) for _ in range(num_workers)]:
            served.result()
    return tally


class _Worker:
    """A process that has prepared. Raises RuntimeError where it cannot: that is no input's fault."""

    def __init__(self, kind: str) -> None:
        command = [sys.executable, "-m", "tests.system.campaign.worker", kind]
        environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - for as long as the worker
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        if self._line(START_SECONDS) != READY:
            self.process.kill()
            self._errors.seek(0)
            raise RuntimeError(f"the worker for {kind} does not start: {self._errors.read()[-3000:]}")

    def verdict(self, seed: int) -> dict[str, Any]:
        """Hand a seed over and wait; a worker that gives no verdict in time, or dies, is a fault of its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        line = self._line(MAX_WALL_SECONDS)
        if line:
            return json.loads(line)
        is_late = line is None
        if is_late:
            self.process.kill()
        code = self.process.wait()
        reason = f"hangs: no end after {MAX_WALL_SECONDS:.0f} s" if is_late else f"ended with {code}"
        return {"seed": seed, "end": "fault", "reason": reason}

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self, seconds: float) -> str | None:
        """Return the next line: empty where the process is gone, none where the time is over."""
        assert self.process.stdout is not None
        is_there, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if is_there else None
