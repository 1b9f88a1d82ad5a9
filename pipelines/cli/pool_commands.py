"""`attar pool` and `attar worker`. Where stages run that do not run beside their recipe, such as containers with a GPU."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer
from rich.console import Console

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


def pool(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="What a recipe's `execution:` calls them.")],
    pool_type: Annotated[
        Literal["process", "docker", "kubernetes"], typer.Option("--type", help="What its workers start for a stage.")
    ] = "process",
    image: Annotated[str, typer.Option(help="NAME@sha256:DIGEST, for docker and kubernetes.")] = "",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a container; a process sees what its worker sees.")] = 0,
    at_once: Annotated[int, typer.Option(min=0, help="Stages at the same time on the whole pool; 0: no limit.")] = 0,
) -> None:
    """Make work pools for stages, each with the deployment that runs one on it. Again: bring them to what is said now."""
    import re

    from attar.pipelines.operate.site import POOL
    from attar.pipelines.recipe.execution import IN_PROCESS, POOL_NAME

    _connect()
    from attar.pipelines.operate.pools import make_pool  # prefect reads its settings when it is imported

    try:
        for name in names:
            if not re.fullmatch(POOL_NAME, name) or name in (IN_PROCESS, POOL):
                raise ValueError(f"pool {name!r}: lower-case letters, digits, - and _; not {IN_PROCESS}, not {POOL}")
        for name in names:
            deployment = make_pool(name, pool_type, image, gpus, at_once or None)
            next_step = f"pool {name} ({pool_type}), deployment {deployment}; start a worker: attar worker {name}"
            out.print(next_step, highlight=False)
    except ValueError as error:
        err.print(f"attar: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


def worker(
    name: Annotated[str, typer.Argument(help="Pool to work for.")],
    at_once: Annotated[int, typer.Option(min=1, help="Stages at the same time on this machine.")] = 1,
    worker_type: Annotated[
        Literal["process", "docker", "kubernetes"], typer.Option("--type", help="As the pool's.")
    ] = "process",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Health check on loopback; 0: none.")] = 0,
) -> None:
    """Take stages from a pool and run them here, until stopped. Needs PREFECT_API_URL, ATTAR_HOME on the shared folder, and no root."""
    import re

    from attar.pipelines.operate.site import LOOPBACK, WORKER_SETTINGS
    from attar.pipelines.recipe.execution import POOL_NAME
    from attar.stages.runtime.orphans import OWNER

    if not re.fullmatch(POOL_NAME, name):  # with a dash in front it would be an option of the worker's
        err.print(f"attar: pool {name!r}: lower-case letters, digits, - and _", style="red", markup=False)
        raise typer.Exit(2)
    _connect()
    # flows outlive a worker that is killed; with its mark they would pass for what it has left behind
    os.environ.pop(OWNER, None)
    for setting, value in WORKER_SETTINGS.items():
        os.environ.setdefault(setting, value)
    # a pool's runs are started by the name `python`: this one's
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", name, "--type", worker_type]
    command += ["--limit", str(at_once), "--install-policy", "never"]
    if port:
        os.environ |= {"PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK, "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
        command.append("--with-healthcheck")
    os.execv(sys.executable, command)  # so that a signal to this process is one to the worker


def _connect() -> None:
    """Find the server: PREFECT_API_URL, else the one that `attar up` runs for this home."""
    from attar.pipelines.operate.prefect_home import configure_prefect
    from attar.registry.artifacts.environment import attar_home

    configure_prefect(attar_home())
    if not os.environ.get("PREFECT_API_URL"):
        err.print("attar: no server: run `attar up`, or set PREFECT_API_URL", style="red", highlight=False)
        raise typer.Exit(2)


POOL_COMMANDS = (pool, worker)
