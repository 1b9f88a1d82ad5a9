"""Run a model's code against tests in a process of its own, where it can do little harm and cannot pass by leaving early.

The process has limits on CPU time, memory, file size, processes and open files, an empty environment and folder, and where the system
allows it no network. It passes only if it writes a token that it has not been told to a pipe that the tested code does not know, after
the last test: `sys.exit(0)`, `os._exit(0)`, a print of "passed" or a hang do not. That stops mistakes and cheap tricks, not a determined
attacker, and the code reads what this user can read: for code of unknown origin run the whole stage in a container.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)
# The first process of a namespace does not hear signals, so it only waits. The limits are set in the process itself, where they can only
# be lowered. The token and the pipe live in the frame of `main` alone; the tests run in the answer's namespace.
RUNNER = """
import os, resource, signal, sys
def main():
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            print("ended by", signal.Signals(-code).name, file=sys.stderr, flush=True)
        os._exit(abs(code))
    token, pipe, limits = sys.stdin.readline().strip(), int(sys.argv[1]), sys.argv[2:]
    for which, value in (limit.split("=") for limit in limits):
        resource.setrlimit(getattr(resource, which), (int(value), int(value)))
    answer, tests = open("answer.py").read(), open("tests.py").read()
    sys.argv = ["answer.py"]
    space = {"__name__": "answer"}
    write, code = os.write, compile(tests, "tests.py", "exec")
    exec(compile(answer, "answer.py", "exec"), space)
    exec(code, space)
    write(pipe, token.encode())
main()
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the process may use. `num_processes` counts all of the user's; the superuser is not bound by it."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    num_files: int = 64
    num_processes: int = 0

    def arguments(self) -> list[str]:
        """Return them as the runner reads them."""
        values = {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.num_files,
            "RLIMIT_NPROC": self.num_processes,
            "RLIMIT_CORE": 0,
        }
        return [f"{name}={value}" for name, value in values.items()]


@dataclass(frozen=True, kw_only=True)
class PassesTests:
    """The reference is Python that tests the answer: it raises, as `assert` does, unless the answer is right. It runs behind the answer.

    https://arxiv.org/abs/2410.24198
    """

    limits: Limits = field(default_factory=Limits)

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        if not reference.strip():
            return "unusable reference (no tests)"
        return run_tests(code_of(rewrite), reference, self.limits)

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        return None  # two programs that pass are not the same text


def code_of(text: str) -> str:
    """Return the code of an answer: its fenced blocks one after the other, or where there is none the whole text."""
    blocks = FENCE.findall(text)
    return "\n".join(blocks) if blocks else text


def run_tests(answer: str, tests: str, limits: Limits) -> str | None:
    """Return None when the answer passes the tests, else what went wrong, in a few words."""
    token = secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="attar-sandbox-"))
    read_end, write_end = os.pipe()
    try:
        (folder / "answer.py").write_text(answer)
        (folder / "tests.py").write_text(tests)
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [*isolation(), sys.executable, "-I", "-c", RUNNER, str(write_end), *limits.arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
                pass_fds=(write_end,),
                start_new_session=True,
            )
        complaint = _outcome(process, token, folder / "errors", limits)
        os.set_blocking(read_end, False)
        if complaint is None and _written(read_end) != token:
            complaint = "it left before the last test"
        return None if complaint is None else f"wrong answer ({complaint})"
    finally:
        os.close(read_end)
        os.close(write_end)
        shutil.rmtree(folder, ignore_errors=True)


@cache
def isolation() -> tuple[str, ...]:
    """Return the command that takes network and other processes away, or the network alone; empty where the system allows neither."""
    user = ("unshare", "--user", "--map-root-user", "--net")
    for command in ((*user, "--pid", "--fork", "--kill-child"), user):
        try:
            done = subprocess.run([*command, "true"], capture_output=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command
    return ()


def _outcome(process: subprocess.Popen[bytes], token: str, errors: Path, limits: Limits) -> str | None:
    """Return None when the process ended by itself with 0, else why not. Whatever it started ends with it."""
    try:
        process.communicate(f"{token}\n".encode(), timeout=limits.wall_seconds)
    except subprocess.TimeoutExpired:
        return f"more than {limits.wall_seconds:g} seconds"
    finally:
        _end_group(process)
    if process.returncode == 0:
        return None
    with errors.open("rb") as stream:
        stream.seek(max(0, errors.stat().st_size - 2000))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"exit code {process.returncode}")[:120]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _written(read_end: int) -> str:
    try:
        return os.read(read_end, 64).decode(errors="replace")
    except BlockingIOError:
        return ""
