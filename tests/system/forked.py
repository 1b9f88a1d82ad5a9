"""The command in a fork of this process, as far apart from it as a process of its own, without the seconds of its imports.

For tests of what a command does. Where the process itself is tested (its start, its signals, what it leaves), it is started as a user starts it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

from attar.stages.process import start_fork_server
from tests.system.operated import Environment

FORK = multiprocessing.get_context("fork")
LONGEST_SECONDS = 280.0


def attar_forked(
    environment: Environment, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment and no other, in the workspace's folder unless told, and return what it printed."""
    start_fork_server()  # the stages of all forks come from this process's
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        where = folder or Path(environment["ATTAR_HOME"]).parent
        process = FORK.Process(target=_command, args=(environment, arguments, where, out.fileno(), err.fileno()))
        process.start()
        try:
            process.join(LONGEST_SECONDS)
            assert process.exitcode is not None, f"attar {' '.join(arguments)} takes more than {LONGEST_SECONDS:g} s"
        finally:
            process.kill()
        printed = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
    return subprocess.CompletedProcess(arguments, process.exitcode, *printed)


def _command(environment: Environment, arguments: tuple[str, ...], folder: Path, out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["attar", *arguments]
    # it is this process's parent's child, whom nobody else may wait for
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    from attar.pipelines.operate.prefect_home import configure_prefect

    configure_prefect(Path(environment["ATTAR_HOME"]))
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()  # Prefect read the environment when it was imported
    from attar.pipelines.cli.main import main

    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    # Python's own end of a fork calls what threads of the parent registered, which did not come along: it may raise, and say 1
    os._exit(code)
