"""What every deployed flow needs before it works: the home, and the folder that relative paths are meant from."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from attar.pipelines.deployments.outliving import outlive_reader
from attar.pipelines.operate.prefect_home import configure_prefect
from attar.registry.artifacts.confinement import confine
from attar.registry.artifacts.environment import attar_home, configure_process
from attar.stages.runtime.reaper import watch_over_this_process


def enter_workplace() -> Path:
    """Go to the folder that `attar up` was called in, as relative paths of a form are meant from there. Return ATTAR_HOME."""
    outlive_reader()
    home = attar_home()
    os.environ["ATTAR_HOME"] = str(home)  # absolute before the working directory changes
    workspace = os.environ.get("ATTAR_WORKSPACE")
    if workspace:
        os.chdir(workspace)
    configure_process()
    configure_prefect(home)
    more = [Path(part) for part in os.environ.get("ATTAR_READABLE", "").split(os.pathsep) if part]
    prefect_home = [Path(os.environ["PREFECT_HOME"])] if os.environ.get("PREFECT_HOME") else []
    # whoever reaches the server names paths; the worker reads with its own rights
    confine([Path.cwd(), *more], home, also_private=prefect_home)
    watch_over_this_process()  # a worker ends a process group; what a stage starts in a session of its own is not in it
    return home


def plain_console() -> Console:
    """Return the console of a flow that a worker runs: lines for its log."""
    return Console(soft_wrap=True, force_terminal=False, width=200)
