"""Run a program with its tests in a folder of its own. What it uses is watched, and nothing of it stays behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[3]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from attar.stages.runtime.tested_code import run; del sys.path[0]; "
    "run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])"
)
POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use, all its processes together.

    With no further process, the default, the kernel holds time, memory and open files to the byte. With more, and for the files of the
    folder, they are looked at every 20 ms and may be over by what is used in that time.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    folder_bytes: int = 16 << 20
    num_folder_entries: int = 1000
    num_files: int = 64
    # besides its own
    num_processes: int = 0

    def arguments(self, parts: Sequence[str]) -> list[str]:
        """Return those that the kernel holds, as the process reads them."""
        values = {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.num_files,
            "RLIMIT_CORE": 0,
        }
        if "filter" not in parts:  # counts all of the user's processes, and threads; the superuser is not bound by it
            values["RLIMIT_NPROC"] = self.num_processes
        return [f"{name}={value}" for name, value in values.items()]


def run_program(command: Sequence[str], parts: Sequence[str], answer: str, tests: str, limits: Limits) -> str | None:
    """Return None when the answer passes the tests, else what went wrong, in a few words.

    command: what is put before Python, such as a namespace; parts: the guards that the process puts up itself.
    """
    token = secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="attar-sandbox-"))
    read_end, write_end = os.pipe()
    try:
        (folder / "answer.py").write_text(answer, "utf-8")
        (folder / "tests.py").write_text(tests, "utf-8")
        # no file of the folder: the code could put a pipe in its place, which nobody would ever read to its end
        with tempfile.TemporaryFile() as errors:
            python = [sys.executable, "-I", "-B", "-c", PROGRAM, str(ROOT), ",".join(parts), str(limits.num_processes)]
            process = subprocess.Popen(
                [*command, *python, str(write_end), *limits.arguments(parts)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                env={"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
                pass_fds=(write_end,),
                start_new_session=True,
            )
            complaint = _outcome(process, token, folder, errors, limits)
        os.set_blocking(read_end, False)
        if complaint is None and _written(read_end) != token:
            return "it left before the last test"
        return complaint
    finally:
        os.close(read_end)
        os.close(write_end)
        _remove(folder)


def _outcome(
    process: subprocess.Popen[bytes], token: str, folder: Path, errors: IO[bytes], limits: Limits
) -> str | None:
    """Return None when the process ended by itself with 0, else why not. Whatever it started ends with it."""
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(f"{token}\n".encode())
        excess = _watch(process, folder, limits)
    finally:
        _end(process)
    if excess is not None:
        return excess
    if process.returncode == 0:
        return None
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"exit code {process.returncode}")[:120]


def _watch(process: subprocess.Popen[bytes], folder: Path, limits: Limits) -> str | None:
    """Wait for the end of a process; return which limit was reached before, None for none."""
    deadline = time.monotonic() + limits.wall_seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return f"more than {limits.wall_seconds:g} seconds"
        try:
            process.wait(min(POLL_SECONDS, left))
        except subprocess.TimeoutExpired:
            excess = _folder_excess(folder, limits) or _tree_excess(process, limits)
            if excess is not None:
                return excess
        else:
            return _folder_excess(folder, limits)


def _folder_excess(folder: Path, limits: Limits) -> str | None:
    num_bytes = num_entries = 0
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                num_entries += 1
                with suppress(OSError):
                    num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if num_entries > limits.num_folder_entries:
                    return f"more than {limits.num_folder_entries:,} files"
    return f"more than {limits.folder_bytes >> 20} MiB of files" if num_bytes > limits.folder_bytes else None


def _tree_excess(process: subprocess.Popen[bytes], limits: Limits) -> str | None:
    """Sum what the processes use, where the code may have more than one."""
    if not limits.num_processes:
        return None
    num_bytes, seconds, num_workers = 0, 0.0, 0
    with suppress(psutil.Error):
        for worker in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                times = worker.cpu_times()
                num_bytes += worker.memory_info().rss
                seconds += times.user + times.system
                num_workers += 1
    if num_bytes > limits.memory_bytes:
        return f"more than {limits.memory_bytes >> 20} MiB in all its processes"
    if seconds > limits.cpu_seconds:
        return f"more than {limits.cpu_seconds} s of processor in all its processes"
    # the process that waits and the one that works are no children of the code's
    return f"more than {limits.num_processes} processes" if num_workers > limits.num_processes + 3 else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, those too that left its group."""
    children: list[psutil.Process] = []
    with suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    process.wait()


def _remove(folder: Path) -> None:
    """Remove a folder, however deep, and with folders that nobody may read."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _written(read_end: int) -> str:
    try:
        return os.read(read_end, 64).decode(errors="replace")
    except BlockingIOError:
        return ""
