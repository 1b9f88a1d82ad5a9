"""Call a function on what others wrote, where it may take only so much time and memory. In a process that is ended when it does.

A regular expression or a JSON schema from a data set can keep Python busy for hours, and no thread or signal handler stops it. The process
is started once and answers calls in well under a millisecond; the next call after one that was ended starts another.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
# Python and the libraries of a check, on a machine that is busy
START_SECONDS = 120.0
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from attar.stages.runtime.bounded_call import serve; serve(float(sys.argv[2]), int(sys.argv[3]))"
)


class TookTooMuch(Exception):
    """A call was ended because it reached a limit; the message says which."""


@dataclass(kw_only=True, eq=False)
class BoundedCalls:
    """A process that calls functions by name (`package.module:function`) with JSON values, each within the limits."""

    # time on the processor: a busy machine changes no verdict
    cpu_seconds: float = 1.0
    # for what waits instead of working
    wall_seconds: float = 10.0
    memory_bytes: int = 1 << 30
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _owner: int = field(default=0, init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False)

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what the function returns. Raises TookTooMuch, or RuntimeError with the words of an exception it raised."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            line = json.dumps([function, arguments])  # ASCII: half an emoji goes along as it is
            try:
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
                answer = self._read(process, self.wall_seconds)
            except BrokenPipeError:
                answer = None
            if answer is None:
                raise TookTooMuch(self._reason(process))
        kind, value = answer
        if kind == "memory":
            raise TookTooMuch(f"more than {self.memory_bytes >> 20} MiB")
        if kind == "error":
            raise RuntimeError(value)
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            command = [sys.executable, "-I", "-c", PROGRAM, str(ROOT), str(self.cpu_seconds), str(self.memory_bytes)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            self._owner = os.getpid()
            if self._read(self._process, START_SECONDS) is None:
                raise RuntimeError(f"the process that runs checks does not start: {' '.join(command[:4])}")
        return self._process

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> list[Any] | None:
        """Return a line of the process as JSON; None when it ended, or was ended after so many seconds."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        line, output = b"", select.poll()
        output.register(process.stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            ready = output.poll(1000 * max(0.0, deadline - time.monotonic()))
            part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                if not ready:
                    process.kill()
                process.wait()
                return None
            line += part
        return json.loads(line)

    def _reason(self, process: subprocess.Popen[bytes]) -> str:
        if process.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
            return f"more than {self.cpu_seconds:g} s"
        if process.returncode == -signal.SIGKILL:
            return f"more than {self.wall_seconds:g} s of waiting, or more memory than there is"
        return f"it ended its process, exit code {process.returncode}"


# one process for all the checks of a stage
SHARED_CALLS = BoundedCalls()


def serve(cpu_seconds: float, memory_bytes: int) -> None:
    """Answer calls from standard input until it closes. The process's own timer ends it: nobody else may be there to do so."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(0)  # a number of 5,000 digits is JSON; what it costs is bounded here
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints is no answer
    _say(answers, ["ready", None])
    for line in sys.stdin.buffer:
        name, arguments = json.loads(line)
        module, _, attribute = name.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            answer = ["done", function(*arguments)]
        except MemoryError:
            answer = ["memory", None]
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller makes a verdict of it
            answer = ["error", f"{type(error).__name__}: {str(error)[:200]}"]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        _say(answers, answer)


def _say(stream: Any, answer: list[Any]) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")
    stream.flush()
