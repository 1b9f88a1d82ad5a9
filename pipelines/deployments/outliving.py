"""Let a flow's process outlive whoever reads what it prints.

A worker reads the lines of its flows through a pipe. When it is killed, the next line breaks the pipe, and rich, by which Prefect and we
print, ends a process whose pipe is broken: hours of training would go for a line that nobody reads.
"""

from __future__ import annotations

import atexit
import os
import stat
import sys
import threading

NUM_BYTES = 65_536
# What was printed last should still arrive; a child that holds the other end must not keep the process.
DRAIN_SECONDS = 1.0


def outlive_reader() -> None:
    """Send standard output and error through a pipe of our own. It goes where they went, as long as somebody reads there. Once a process."""
    for descriptor in (1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            _relay(descriptor)


def _relay(descriptor: int) -> None:
    outside = os.dup(descriptor)
    inlet, outlet = os.pipe()
    os.dup2(outlet, descriptor)
    os.close(outlet)
    os.set_inheritable(descriptor, True)
    relay = threading.Thread(target=_carry, args=(inlet, outside), daemon=True, name=f"relay-{descriptor}")
    relay.start()
    atexit.register(_finish, descriptor, outside, relay)


def _carry(inlet: int, outside: int) -> None:
    is_read = True
    while chunk := os.read(inlet, NUM_BYTES):
        while chunk and is_read:
            try:
                chunk = chunk[os.write(outside, chunk) :]
            except OSError:  # nobody reads any more: drop it, and go on emptying the pipe
                is_read = False


def _finish(descriptor: int, outside: int, relay: threading.Thread) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(outside, descriptor)  # closes our end: the relay comes to its own
    relay.join(timeout=DRAIN_SECONDS)
