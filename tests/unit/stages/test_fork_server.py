"""Ctrl-C reaches a terminal's whole group: the fork server, which imports for seconds, must not answer it with a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil

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
