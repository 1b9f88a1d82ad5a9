"""Which nodes may run at the same time. Heavy ones share the cores and the memory, light ones run beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attar.registry.artifacts.environment import available_memory_bytes, num_cores


class ResourcePool:
    """Cores and memory of this machine. `num_workers` heavy nodes at once, each with an equal share of the cores."""

    def __init__(self, num_workers: int = 0) -> None:
        self.num_cores = num_cores()
        # a stage on fewer than four cores is slower than two stages one after the other
        self.num_workers = num_workers or max(1, self.num_cores // 4)
        self.threads_per_node = max(1, self.num_cores // self.num_workers)
        self._memory_bytes = float(available_memory_bytes())
        self._taken_bytes = 0.0
        self._num_heavy = 0
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, memory_bytes: float, is_light: bool) -> Iterator[int]:
        """Wait until the node fits, and give the number of threads it may use. A node larger than the machine runs alone."""
        num_heavy = 0 if is_light else 1
        with self._changed:
            self._changed.wait_for(lambda: self._fits(memory_bytes, num_heavy))
            self._taken_bytes += memory_bytes
            self._num_heavy += num_heavy
        try:
            yield 1 if is_light else self.threads_per_node
        finally:
            with self._changed:
                self._taken_bytes -= memory_bytes
                self._num_heavy -= num_heavy
                self._changed.notify_all()

    def _fits(self, memory_bytes: float, num_heavy: int) -> bool:
        if self._num_heavy + num_heavy > self.num_workers:
            return False
        has_memory = not self._memory_bytes or self._taken_bytes + memory_bytes <= self._memory_bytes
        return has_memory or self._taken_bytes == 0
