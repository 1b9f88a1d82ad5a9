"""Which guard this system gives a model's code. Tried out, not looked up, before the first line of such code runs."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attar.stages.runtime.syscall_filter import is_known_machine
from attar.stages.runtime.watched_process import Limits, run_program

NETWORK = ("unshare", "--user", "--map-root-user", "--net")
PROCESSES = ("--pid", "--fork", "--kill-child")
# It passes where all of this is refused, and its own folder is its own.
ATTEMPTS = """
import os, socket
outside = {outside!r}
def refused(work, *arguments):
    try:
        work(*arguments)
    except OSError:
        return
    os._exit(1)
refused(open, outside + "/new", "w")
refused(open, outside + "/kept", "a")
refused(os.remove, outside + "/kept")
refused(os.rename, outside + "/kept", "kept")
refused(os.truncate, outside + "/kept", 0)
refused(os.mkdir, outside + "/folder")
refused(os.symlink, "x", outside + "/link")
refused(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
refused(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
refused(socket.socket, socket.AF_UNIX, socket.SOCK_STREAM)
refused(os.fork)
open("inside", "w").write("x")
os.remove("inside")
"""


@dataclass(frozen=True)
class Guard:
    """How code is run: the command in front of Python, and the guards that its process puts up itself."""

    command: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What holds, for people."""
        if not self.parts:
            return "nothing keeps a model's code from writing files, sockets and processes"
        writes = "Landlock" if "landlock" in self.parts else "a mount namespace"
        rest = "an own process namespace" if "pids" in self.parts else "no process namespace"
        return (
            f"writes outside its folder are refused by {writes}, sockets and processes by a system call filter; {rest}; "
            "limits: of its one process by the kernel, of its folder looked at every 20 ms"
        )


UNGUARDED = Guard()


@cache
def system_guard() -> Guard | None:
    """Return the first guard that holds here, None when none does. Takes a tenth of a second, once a process."""
    return next((guard for guard in possible_guards() if holds(guard)), None)


def possible_guards() -> Iterator[Guard]:
    """Yield every guard, the closest first. Each refuses writes and sockets; they differ in what else they take away."""
    if not is_known_machine():
        return
    has_unshare = shutil.which("unshare") is not None
    if has_unshare:
        yield Guard((*NETWORK, *PROCESSES), ("landlock", "filter", "pids"))
    yield Guard((), ("landlock", "filter"))
    if has_unshare:
        yield Guard((*NETWORK, "--mount", *PROCESSES), ("mounts", "filter", "pids"))
        yield Guard((*NETWORK, "--mount"), ("mounts", "filter"))


def holds(guard: Guard) -> bool:
    """Say whether a guard holds here. A program of ours tries to write outside its folder, to open sockets and to fork."""
    if sys.platform != "linux":
        return False
    outside = Path(tempfile.mkdtemp(prefix="attar-guard-"))
    try:
        (outside / "kept").write_text("kept")
        tests = ATTEMPTS.format(outside=str(outside))
        is_refused = run_program(guard.command, guard.parts, "", tests, Limits(wall_seconds=60.0)) is None
        return is_refused and [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "kept")]
    except OSError:
        return False
    finally:
        shutil.rmtree(outside, ignore_errors=True)
