"""What runs here, in a small JSON file. Process ids with their start times: an id given to someone else is never taken for ours."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from attar.pipelines.operate.credentials import Credentials
from attar.pipelines.operate.site import Site
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.process_start import is_same_process, start_of


@dataclass(frozen=True)
class ProcessMark:
    """A process, told from a later one that got the same id."""

    pid: int
    created: float

    @property
    def process(self) -> psutil.Process | None:
        """The process if it still runs, else None."""
        try:
            process = psutil.Process(self.pid)
            is_same = is_same_process(self.pid, self.created)
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def mark_of(pid: int) -> ProcessMark:
    """Return the mark of a running process."""
    return ProcessMark(pid, start_of(pid))


@dataclass
class ServiceState:
    """One service as its supervisor sees it. `state`: waiting, starting, healthy, failing, restarting, stopped."""

    state: str = "waiting"
    process: ProcessMark | None = None
    num_restarts: int = 0
    reason: str = ""


@dataclass
class SiteState:
    """The supervisor, the site it runs and its services."""

    site: Site
    supervisor: ProcessMark
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether the supervisor is alive."""
        return self.supervisor.process is not None

    def save(self) -> None:
        """Write the file; readers see the old one or the new one."""
        values = {
            "site": self.site.as_dict(),
            "supervisor": asdict(self.supervisor),
            "services": {name: asdict(service) for name, service in self.services.items()},
        }
        path = state_path(self.site.home)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, json.dumps(values, indent=1))


def state_path(home: Path) -> Path:
    """Return where the state of a home's services lies."""
    return home / "services" / "state.json"


def read_state(home: Path) -> SiteState | None:
    """Return what was started for a home and not stopped, alive or not; None when there is nothing."""
    try:
        values = json.loads(state_path(home).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    services = {name: _service(entry) for name, entry in values["services"].items()}
    return SiteState(Site.from_dict(values["site"]), ProcessMark(**values["supervisor"]), services)


def running_site(home: Path) -> Site | None:
    """Return the site whose servers run for this home, or None."""
    state = read_state(home)
    return state.site if state is not None and state.is_running else None


def adopt_servers(home: Path) -> None:
    """Let this process and all it starts talk to this home's servers. Where the user has named others, these stay.

    Called before anything is planned: where a version is registered belongs to the key of the stage that registers it.
    """
    site = running_site(home)
    if site is not None:
        os.environ.setdefault("PREFECT_API_URL", site.api_url)
        os.environ.setdefault("MLFLOW_TRACKING_URI", site.mlflow_url)
        ours = (site.api_url, site.mlflow_url)
        if site.is_protected and (os.environ["PREFECT_API_URL"], os.environ["MLFLOW_TRACKING_URI"]) == ours:
            for name, value in Credentials.of(
                home
            ).client_environment.items():  # for ours alone: no other server may see it
                os.environ.setdefault(name, value)


def _service(entry: dict[str, Any]) -> ServiceState:
    mark = entry.pop("process")
    return ServiceState(**entry, process=ProcessMark(**mark) if mark else None)
