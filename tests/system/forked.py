"""The command, or a worker's flow run, in a fork of this process, as far apart from it as a process of its own, without its seconds of imports.

For tests of what a command or a flow does. Where the process itself is tested (its start, its signals, what it leaves), it is started as a user starts it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from attar.stages.process import start_fork_server
from tests.forks import leave_fork_server_to_parent
from tests.system.operated import Environment

FORK = multiprocessing.get_context("fork")
LONGEST_SECONDS = 280.0


def attar_forked(
    environment: Environment, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment and no other, in the workspace's folder unless told, and return what it printed."""
    return _forked(run_command, environment, arguments, folder or Path(environment["ATTAR_HOME"]).parent)


def flow_forked(environment: Environment, flow_run: str) -> subprocess.CompletedProcess[str]:
    """Do what a worker's process does for a flow run, with the environment of the worker; return what was printed."""
    environment = environment | {"PREFECT__FLOW_RUN_ID": flow_run}
    return _forked(run_engine, environment, (), Path(environment["ATTAR_WORKSPACE"]))


class ForkedRun:
    """A command at work in a fork, in a session of its own; what it and its stages print goes to a log."""

    def __init__(self, environment: Environment, *arguments: str, folder: Path, log: BinaryIO) -> None:
        start_fork_server()
        self._home = Path(environment["ATTAR_HOME"])
        words = (run_command, environment, arguments, folder, log.fileno(), log.fileno())
        self._process = FORK.Process(target=_lead, args=words)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill_with_all(self) -> None:
        """SIGKILL to the command, to what it has started, and to its stages, which the fork server of all tests has started for it."""
        server = psutil.Process(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        stages = [stage for stage in server.children(recursive=True) if self._prints(stage)]
        os.killpg(self.pid, signal.SIGKILL)
        for stage in stages:
            with suppress(psutil.NoSuchProcess):
                stage.kill()
        self._process.join()
        psutil.wait_procs(stages)

    def _prints(self, process: psutil.Process) -> bool:
        """True where a process prints to a log in this command's home, as its stages do."""
        try:
            return Path(os.readlink(f"/proc/{process.pid}/fd/1")).is_relative_to(self._home)
        except OSError:  # it is gone
            return False


def _lead(*words: Any) -> None:
    os.setsid()
    enter(*words)


def _forked(
    work: Callable[[], None], environment: Environment, arguments: tuple[str, ...], folder: Path
) -> subprocess.CompletedProcess[str]:
    start_fork_server()  # the stages of all forks come from this process's
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = FORK.Process(target=enter, args=(work, environment, arguments, folder, out.fileno(), err.fileno()))
        process.start()
        try:
            process.join(LONGEST_SECONDS)
            title = f"{work.__name__} {' '.join(arguments)}"
            assert process.exitcode is not None, f"{title} takes more than {LONGEST_SECONDS:g} s"
        finally:
            process.kill()
        printed = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
    return subprocess.CompletedProcess(arguments, process.exitcode, *printed)


def enter(
    work: Callable[[], None], environment: Environment, arguments: tuple[str, ...], folder: Path, out: int, err: int
) -> None:
    """Do the work as a process of its own would, its output in these files, and end this process."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["attar", *arguments]
    leave_fork_server_to_parent()
    from attar.pipelines.operate.prefect_home import configure_prefect

    configure_prefect(Path(environment["ATTAR_HOME"]))
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()  # Prefect read the environment when it was imported
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    # Python's own end of a fork calls what threads of the parent registered, which did not come along: it may raise, and say 1
    os._exit(code)


def run_command() -> None:
    """Be the command line."""
    from attar.pipelines.cli.main import main  # here, where the environment is that of the command

    main()


def run_engine() -> None:
    """Be what a worker starts for a flow run."""
    from attar.pipelines.operate.run_start import start_run  # as above

    start_run()
