"""The process that runs a model's code and then its tests. It gives up what it does not need, and only then reads a line of them.

It waits as the first process of its namespace, which does not hear signals, and works in a child. The token and the pipe live in the
frame of `run` alone; the tests run in the answer's namespace.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from attar.stages.runtime.syscall_filter import filter_calls, give_up_privileges
from attar.stages.runtime.write_guard import (
    SCOPE_VERSION,
    TRUNCATE_VERSION,
    landlock_version,
    lock_writes,
    mount_read_only,
)


def run(parts: str, num_processes: int, pipe: int, limits: list[str]) -> None:
    """Run answer.py and tests.py of the working folder behind guards. `parts` names them; then the token goes to the pipe."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            print("ended by", signal.Signals(-code).name, file=sys.stderr, flush=True)
        os._exit(abs(code))
    token = sys.stdin.readline().strip()
    answer, tests = Path("answer.py").read_text("utf-8"), Path("tests.py").read_text("utf-8")
    _guard(parts.split(","), num_processes)
    for which, value in (limit.split("=") for limit in limits):
        resource.setrlimit(getattr(resource, which), (int(value), int(value)))
    sys.argv = ["answer.py"]
    space = {"__name__": "answer"}
    write, code = os.write, compile(tests, "tests.py", "exec")
    exec(compile(answer, "answer.py", "exec"), space)
    exec(code, space)
    write(pipe, token.encode())


def _guard(parts: list[str], num_processes: int) -> None:
    folder = Path.cwd()
    version = landlock_version() if "landlock" in parts else 0
    if "mounts" in parts:
        mount_read_only(folder)
    if "landlock" in parts:
        lock_writes(folder)
    if "filter" in parts:
        give_up_privileges()
        filter_calls(
            may_start_processes=num_processes > 0,
            may_signal="pids" in parts or version >= SCOPE_VERSION,
            may_truncate="mounts" in parts or version >= TRUNCATE_VERSION,
        )


def syntax_fault(code: str) -> str | None:
    """Return what keeps a text from being Python, in a few words; None when nothing does."""
    try:
        compile(code, "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
        return f"no Python: {type(error).__name__}: {str(error)[:80]}"
    return None
