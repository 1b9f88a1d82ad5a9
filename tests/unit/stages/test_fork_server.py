"""The fork server does not answer Ctrl-C, which reaches a terminal's whole group, with a traceback; its children do not run what started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from attar.stages.runtime.process_group import start_without_main

RUN = """
import signal, sys, time
from attar.stages.process import start_fork_server
start_fork_server()
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
print("started", flush=True)
time.sleep(60)
"""


def imports_begun(pid: int) -> None:
    """Wait until a child has grown beyond a bare Python: an interrupt before that ends it without a word."""
    while not [child for child in psutil.Process(pid).children() if child.memory_info().rss > 60e6]:
        pass


def test_an_interrupt_while_the_fork_server_imports_is_quiet() -> None:
    own = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    imports_begun(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=120)  # to the end of the fork server, which holds the other end too
    assert process.returncode == 130, "the run itself hears it, after as before"
    assert "Traceback" not in printed and "KeyboardInterrupt" not in printed


def test_what_started_this_process_is_not_run_again_in_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs the script that started a process in each of its children too; a stage needs nothing of it."""
    starter = ModuleType("__main__")
    starter.__file__ = str(tmp_path / "starter.py")
    (tmp_path / "starter.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    monkeypatch.setitem(sys.modules, "__main__", starter)
    for start, is_run in ((start_without_main, False), (BaseProcess.start, True)):
        child = multiprocessing.get_context("spawn").Process(target=os.getpid)
        start(child)
        child.join()
        assert child.exitcode == 0 and (tmp_path / "was_run").exists() is is_run
    assert sys.modules["__main__"] is starter
