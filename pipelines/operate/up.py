"""`attar up` and `attar down`: start the services once, say where they are, and stop only what was started here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from attar.pipelines.operate.health import is_port_free, listener
from attar.pipelines.operate.postgres import binaries
from attar.pipelines.operate.service_state import SiteState, read_state, state_path
from attar.pipelines.operate.site import LOOPBACK, Site, client_environment, is_loopback
from attar.registry.artifacts.environment import is_database_whole
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.fingerprint import file_digest
from attar.stages.runtime.orphans import OWNER, end_orphans, end_tree, owned_by, tree_of

POLL_SECONDS = 0.3
# The supervisor stops three services one after the other, each with its own grace.
STOP_SECONDS = 60.0
NUM_LOG_LINES = 15


class ServicesFailed(RuntimeError):
    """The services did not come up; the message says which, why, and what its log says."""


@dataclass(frozen=True)
class Started:
    """What `bring_up` found or made: the site, whether it ran before, and the deployments."""

    site: Site
    was_running: bool
    seconds: float
    deployments: tuple[str, ...]


def bring_up(site: Site, prefect_file: Path, say: Callable[[str], None], timeout_seconds: float = 300.0) -> Started:
    """Start the services unless they run, wait until they are healthy, and deploy `prefect_file` (where they ran, if it changed).

    Raises ValueError for a port that is taken, ServicesFailed when a service does not come up (what had started is stopped again).
    """
    started = time.monotonic()
    lock = FileLock(state_path(site.home).with_name("up.lock"))
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=timeout_seconds):
            state = read_state(site.home)
            if state is not None and state.is_running:
                _wait(state.site, ("prefect", "mlflow", "worker"), say, timeout_seconds)
                # a file that did not change is left alone: what was switched in the UI since stays as it is
                changed = _applied(state.site) != file_digest(prefect_file)
                deployments = deploy(state.site, prefect_file) if changed else ()
                return Started(state.site, True, time.monotonic() - started, deployments)
            bring_down(site.home)  # what a killed supervisor left would hold the ports
            _check_ports(site)
            _make_database(site)
            _start_supervisor(site)
            say(f"starting Prefect, MLflow and a worker; logs: {site.log_folder}")
            try:
                _wait(site, ("prefect", "mlflow"), say, timeout_seconds)
                say("applying the deployments")
                deployments = deploy(site, prefect_file)
                _wait(site, ("worker",), say, timeout_seconds)
            except BaseException:
                bring_down(site.home)
                raise
            return Started(site, False, time.monotonic() - started, deployments)
    except Timeout as error:
        raise ValueError(f"another `attar up` for {site.home} is at work") from error


def _make_database(site: Site) -> None:
    """Make MLflow's SQLite file before its server does: that would leave half of it behind where it is killed."""
    if site.database != "sqlite" or os.environ.get("MLFLOW_BACKEND_STORE_URI") or is_database_whole(site.home):
        return
    from attar.registry.tracking.mlflow_home import make_database  # seconds of imports, for the first `up` alone

    make_database(site.home)


def bring_down(home: Path) -> list[str]:
    """Stop the supervisor of a home and everything it started; return what was stopped, by name. Nothing else is touched."""
    state = read_state(home)
    if state is None:
        return []
    supervisor = state.supervisor.process
    stopped = [name for name, service in state.services.items() if service.process and service.process.process]
    # noted before the supervisor goes: afterwards nobody could tell whose children they are
    marked = [process for pid in owned_by(state.supervisor.pid) for process in tree_of(pid)] if supervisor else []
    if supervisor is not None:
        end_tree([supervisor], grace_seconds=STOP_SECONDS)
    for service in state.services.values():
        process = service.process.process if service.process else None
        if process is not None:  # the supervisor was killed before: its services are still there
            end_tree(tree_of(process.pid), grace_seconds=10.0)
    end_tree([process for process in marked if process.is_running()], grace_seconds=5.0)
    end_orphans()
    state_path(home).unlink(missing_ok=True)
    return stopped


def read_deployments(prefect_file: Path) -> list[dict[str, Any]]:
    """Return the entries of a prefect.yaml. Raises ValueError, in one line, for a file that has none."""
    try:
        document = yaml.safe_load(prefect_file.read_text())
    except OSError as error:
        raise ValueError(f"prefect-file {prefect_file}: {error.strerror}; a prefect.yaml is expected") from error
    except yaml.YAMLError as error:
        raise ValueError(f"prefect-file {prefect_file}: not valid YAML: {' '.join(str(error).split())}") from error
    entries = document.get("deployments") if isinstance(document, dict) else None
    if (
        not entries
        or not isinstance(entries, list)
        or not all(isinstance(entry, dict) and "name" in entry for entry in entries)
    ):
        raise ValueError(f"prefect-file {prefect_file}: a list `deployments`, each with a name, is expected")
    return entries


def deploy(site: Site, prefect_file: Path) -> tuple[str, ...]:
    """Create the work pool and its queues and apply `prefect_file`; return the deployments' names. Raises ServicesFailed."""
    digest = file_digest(prefect_file)  # of what is applied, should somebody save the file meanwhile
    command = [sys.executable, "-m", "attar.pipelines.operate.deploy", str(prefect_file), str(site.heavy_at_once)]
    environment = {name: value for name, value in client_environment(site).items() if name != OWNER}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    write_synced(site.log_folder / "deploy.log", done.stdout + done.stderr)
    if done.returncode != 0:
        raise ServicesFailed(f"deploying {prefect_file} failed:\n{_tail(site.log_folder / 'deploy.log')}")
    write_synced(_applied_path(site), digest)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _applied_path(site: Site) -> Path:
    return state_path(site.home).with_name("deployed.sha256")


def _applied(site: Site) -> str:
    """Return the digest of the file that was deployed last, empty for none."""
    path = _applied_path(site)
    return path.read_text() if path.is_file() else ""


def _start_supervisor(site: Site) -> None:
    site.log_folder.mkdir(parents=True, exist_ok=True)
    state_path(site.home).unlink(missing_ok=True)
    with (site.log_folder / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "attar.pipelines.operate.supervisor", json.dumps(site.as_dict())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != OWNER},
            start_new_session=True,
        )


def _wait(site: Site, names: tuple[str, ...], say: Callable[[str], None], timeout_seconds: float) -> None:
    """Wait until the services are healthy, and say it of each as it answers.

    Raises ServicesFailed when the supervisor ends, a service keeps falling, or time is up.
    """
    started, states_shown = time.monotonic(), set[str]()
    deadline = started + timeout_seconds
    state: SiteState | None = None
    while time.monotonic() < deadline:
        state = read_state(site.home)
        if state is not None:
            for name in names:
                if state.services[name].state == "healthy" and name not in states_shown:
                    states_shown.add(name)
                    say(f"{name} answers after {time.monotonic() - started:.0f} s (port {site.ports[name]})")
            if all(state.services[name].state == "healthy" for name in names):
                return
            fallen = next((name for name in names if state.services[name].num_restarts >= 2), "")
            if fallen:
                raise ServicesFailed(
                    f"{fallen} {state.services[fallen].reason}:\n{_tail(site.log_folder / f'{fallen}.log')}"
                )
            if not state.is_running:
                raise ServicesFailed(f"the supervisor ended:\n{_tail(site.log_folder / 'supervisor.log')}")
        time.sleep(POLL_SECONDS)
    late = [name for name in names if state is None or state.services[name].state != "healthy"]
    raise ServicesFailed(f"{', '.join(late)} not healthy after {timeout_seconds:.0f} s; logs: {site.log_folder}")


def _check_ports(site: Site) -> None:
    if not is_loopback(site.host) and not site.is_protected:
        raise ValueError(
            f"host {site.host}: whoever reaches it could run anything here; leave out --no-protect, or stay on {LOOPBACK}"
        )
    for module in ("flask", "optuna"):
        if find_spec(module) is None:
            raise ValueError(f"the servers need {module}: pip install 'attar[server]'")
    if site.is_protected and find_spec("flask_wtf") is None:
        raise ValueError("a password on MLflow needs flask-wtf: pip install 'attar[server]'")
    if site.database == "postgres":
        binaries()
    for name, port in site.ports.items():
        if not is_port_free(site.host if name in ("prefect", "mlflow") else LOOPBACK, port):
            raise ValueError(f"port {port} is taken by {listener(port)}: choose another with --{name}-port")


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-NUM_LOG_LINES:])
