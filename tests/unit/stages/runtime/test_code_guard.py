"""What a model's code cannot do, under every guard that this system gives: tried with harmless attempts, as root and as nobody."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from attar.pipelines.operate import doctor
from attar.stages.runtime import sandbox
from attar.stages.runtime.code_guard import UNGUARDED, Guard, holds, possible_guards, system_guard
from attar.stages.runtime.watched_process import Limits, run_program

GUARDS = [guard for guard in possible_guards() if holds(guard)]
LIMITS = Limits(wall_seconds=60.0)
ALLOWED = [
    "open('mine', 'w').write('x')\nimport os\nos.mkdir('a')\nos.rename('mine', 'a/mine')\nos.remove('a/mine')",
    "open('/dev/null', 'w').write('x')",
    "import threading\nworker = threading.Thread(target=print)\nworker.start()\nworker.join()",
    "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 3\nassert asyncio.run(f()) == 3",
    "import tempfile, shutil, pathlib\npathlib.Path('x').write_text('x')\nshutil.copy2('x', 'y')\npathlib.Path('y').touch()\ntempfile.TemporaryFile().write(b'x')",
    "import json, math, random, decimal, fractions, itertools, collections, re, datetime, os\nassert os.listdir('/usr')",
]  # fmt: skip


def run(guard: Guard, code: str, limits: Limits = LIMITS) -> str | None:
    return run_program(guard.command, guard.parts, "", code, limits)


def refused(code: str) -> str:
    """Return tests that pass where the code raises OSError."""
    indented = "".join(f"    {line}\n" for line in code.splitlines())
    return f"import os, socket, errno\ntry:\n{indented}except OSError:\n    pass\nelse:\n    raise AssertionError('allowed')"


@pytest.fixture(params=GUARDS, ids=lambda guard: "+".join(guard.parts))
def guard(request: pytest.FixtureRequest) -> Guard:
    return request.param


def test_linux_gives_a_guard_wherever_it_has_landlock_or_namespaces() -> None:
    can = Path("/proc/self/ns/user").exists() and shutil.which("unshare")
    assert GUARDS or not (sys.platform == "linux" and can), "neither Landlock nor a namespace held: doctor says so"


@pytest.mark.parametrize("code", ALLOWED)
def test_ordinary_code_runs(guard: Guard, code: str) -> None:
    assert run(guard, code) is None


def test_nothing_is_written_outside_the_folder(guard: Guard, tmp_path: Path) -> None:
    sentinel = tmp_path / "kept"
    sentinel.write_text("kept")
    before = sentinel.stat()
    for code in (
        f"open('{tmp_path}/new', 'w')", f"open('{sentinel}', 'a')", f"os.remove('{sentinel}')", f"os.rename('{sentinel}', 'here')",
        f"os.link('{sentinel}', 'here')\nopen('here', 'a')", f"os.symlink('{sentinel}', 'link')\nopen('link', 'a')", f"os.mkfifo('{tmp_path}/pipe')",
        f"os.truncate('{sentinel}', 0)", f"open('../{tmp_path.name}/new', 'w')", "open('/dev/shm/attar-test', 'w')", "os.rmdir('..')",
    ):  # fmt: skip
        assert run(guard, refused(code)) is None, code
    # modes and times: the call may say that it did, and does nothing
    run(guard, f"import os\nos.chmod('{sentinel}', 0)\nos.utime('{sentinel}', (0, 0))")
    after = sentinel.stat()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and sentinel.read_text() == "kept"
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)


def test_no_socket_is_reached_with_or_without_a_path(guard: Guard, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, socket.create_server(("127.0.0.1", 0)) as server:
        listener.bind(path)
        listener.setblocking(False)
        port = server.getsockname()[1]
        for code in (
            f"socket.create_connection(('127.0.0.1', {port}))", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "socket.socket(socket.AF_INET6)", f"socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '{path}')",
            f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', '{path}')",
            f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.connect('{path}')",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        ):  # fmt: skip
            assert run(guard, refused(code)) is None, code
        with pytest.raises(BlockingIOError):
            listener.recv(1)


def test_no_other_process_is_started_or_signalled(guard: Guard) -> None:
    for code in (
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess\nsubprocess.run(['true'])",
    ):
        assert run(guard, refused(code)) is None, code
    # where a namespace hides it the number means nothing; elsewhere the signal is refused
    if "pids" not in guard.parts:
        assert run(guard, refused(f"os.kill({os.getpid()}, 0)")) is None
    assert "SIGKILL" in (run(guard, "import os\nos.kill(os.getpid(), 9)") or "")


def test_the_sum_of_its_files_and_their_number_are_bounded(guard: Guard) -> None:
    many = "for i in range(10**6):\n    open(f'f{i}', 'wb').write(bytes(1 << 19))"
    assert run(guard, many) == "more than 16 MiB of files"
    assert run(guard, "import os\nfor i in range(10**6):\n    os.mkdir(str(i))") == "more than 1,000 files"


def test_the_sum_of_its_memory_is_bounded(guard: Guard) -> None:
    code = "parts = [bytes(64 << 20) for _ in range(64)]"
    assert "MemoryError" in (run(guard, code) or "")


def test_what_it_puts_into_its_folder_never_holds_up_the_parent(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(400):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkdir('closed', 0o300)\nos.mkdir('closed/x')"
    assert run(guard, deep) is None
    run(guard, "import os\nos.remove('tests.py')\nos.symlink('/', 'root')\nraise ValueError('the end')")
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_summed_where_they_are_allowed() -> None:
    limits = Limits(wall_seconds=60.0, num_processes=4, memory_bytes=1 << 29)
    waits = "import os, time\nfor _ in range(3):\n    if not os.fork():\n        kept = os.urandom(1) * (200 << 20)\n        time.sleep(600)\nos.wait()"
    complaint = run_program(GUARDS[0].command, GUARDS[0].parts, "", waits, limits) if GUARDS else "in all its processes"
    assert "in all its processes" in (complaint or ""), complaint
    bomb = "import os, time\nwhile True:\n    if not os.fork():\n        time.sleep(600)"
    many = Limits(wall_seconds=60.0, num_processes=4, memory_bytes=1 << 33)  # it is their number that is too large
    complaint = run_program(GUARDS[0].command, GUARDS[0].parts, "", bomb, many) if GUARDS else "more than 4 processes"
    assert complaint == "more than 4 processes", complaint


def test_without_a_guard_no_code_runs_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (sandbox, doctor):
        monkeypatch.setattr(module, "system_guard", lambda: None)
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="ATTAR_UNGUARDED_CODE=yes"):
        sandbox.run_tests("x = 1", "assert x == 1", LIMITS)
    [finding] = doctor._sandbox(tmp_path)
    assert finding.verdict == "note" and "is refused" in finding.observed and finding.mend
    monkeypatch.setenv(sandbox.VARIABLE, "yes")
    assert sandbox.run_tests("x = 1", "assert x == 1", LIMITS) is None
    assert "runs unguarded" in next(doctor._sandbox(tmp_path)).observed


def test_a_guard_that_does_not_hold_is_not_believed() -> None:
    assert not holds(UNGUARDED) and not holds(Guard((), ("landlock",))) and not holds(Guard((), ("filter",)))
    assert not holds(Guard(("no-such-program",), ("landlock", "filter")))
    assert system_guard() == (GUARDS[0] if GUARDS else None)
