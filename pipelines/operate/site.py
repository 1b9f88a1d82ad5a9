"""What one machine runs: a Prefect server, an MLflow server and a worker, with their commands, settings and health checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from attar.pipelines.operate import postgres
from attar.pipelines.operate.credentials import Credentials
from attar.pipelines.operate.host_check import VARIABLE as HOST_NAMES

LOOPBACK = "127.0.0.1"
POOL = "attar"
# Names of this machine at any port, as MLflow reads them: shell patterns.
LOOPBACK_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[::1],[[]::1]:*"
# Settings of a worker and of what it starts, where the user has not chosen.
WORKER_SETTINGS = {
    "PREFECT_CLI_PROMPT": "false",
    # a person who has pressed Run waits for this
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    # a run whose process is gone is known by its silence; half a minute is the shortest that Prefect sends
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # what is ended because it fell silent says in its log where each of its threads was
    "PYTHONFAULTHANDLER": "1",
    # a server that restarts must not cost a run of hours
    "PREFECT_CLIENT_MAX_RETRIES": "10",
}
# Settings of the servers and of whatever the worker starts, where the user has not chosen.
SETTINGS = WORKER_SETTINGS | {
    # in memory, the default, a restart forgets who holds a GPU and never gives its slot back
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # a page of another site that a browser has open shall change nothing here
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    # SQLite has one writer at a time: on a loaded machine 10 s are not enough to wait for one's turn
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    # MLflow would start 15 processes of 3.3 GB for jobs that nobody asked for
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # with a password: what MLflow has no rule for is refused, not open
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
}
# Set by a run without servers, for its own short-lived one: a server that stays needs these services.
SERVICE_SWITCHES = "PREFECT_SERVER_SERVICES_"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One supervised process: how it starts, how it shows that it is well, and which service must be well before."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    health_url: str
    after: str = ""
    # True for a worker: the flow runs that it started report for themselves, and a restart must not end them
    leaves_work: bool = False

    @property
    def is_python(self) -> bool:
        """Whether this Python runs it, which can be asked for the stacks of its threads."""
        return self.command[0] == sys.executable


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where things lie and listen. `runs_at_once` flow runs share the machine; of heavy ones a queue lets `heavy_at_once` run."""

    home: Path
    workspace: Path
    host: str = LOOPBACK
    prefect_port: int = 4200
    mlflow_port: int = 5000
    worker_port: int = 4280
    runs_at_once: int = 4
    heavy_at_once: int = 1
    database: Literal["sqlite", "postgres"] = "sqlite"
    postgres_port: int = 5433
    # True: both servers ask for a password
    is_protected: bool = False

    @property
    def prefect_url(self) -> str:
        """Prefect's user interface."""
        return f"http://{_reachable(self.host)}:{self.prefect_port}"

    @property
    def api_url(self) -> str:
        """Prefect's API."""
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        """MLflow's user interface and API."""
        return f"http://{_reachable(self.host)}:{self.mlflow_port}"

    @property
    def ports(self) -> dict[str, int]:
        """The ports that must be free, by service."""
        ports = {"prefect": self.prefect_port, "mlflow": self.mlflow_port, "worker": self.worker_port}
        return ports | ({"postgres": self.postgres_port} if self.database == "postgres" else {})

    @property
    def log_folder(self) -> Path:
        """Where every service writes its log."""
        return self.home / "logs"

    def as_dict(self) -> dict[str, Any]:
        """Return the site as plain JSON values."""
        return asdict(self) | {"home": str(self.home), "workspace": str(self.workspace)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return a site from `as_dict`."""
        return cls(**{**values, "home": Path(values["home"]), "workspace": Path(values["workspace"])})


def client_environment(site: Site) -> dict[str, str]:
    """Return the environment of whatever talks to the servers: flows, the command line, deployments."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SERVICE_SWITCHES)}
    chosen = {
        "ATTAR_HOME": str(site.home),
        "ATTAR_WORKSPACE": str(site.workspace),
        "PREFECT_HOME": str(site.home / "prefect"),
        "PREFECT_API_URL": site.api_url,
        "MLFLOW_TRACKING_URI": site.mlflow_url,
    }
    protected = Credentials.of(site.home).client_environment if site.is_protected else {}
    return SETTINGS | inherited | chosen | protected


def services(site: Site) -> list[Service]:
    """Return the services in the order in which they start."""
    clients = client_environment(site)
    first = [_postgres(site, clients)] if site.database == "postgres" else []
    after = first[0].name if first else ""
    return [
        *first,
        Service(
            name="prefect",
            command=(*_module("attar.pipelines.operate.prefect_server"), "server", "start", *_prefect_options(site)),
            environment=_server_environments(site, clients)["prefect"],
            health_url=f"{site.api_url}/health",
            after=after,
        ),
        Service(
            name="mlflow",
            command=(*_module("mlflow"), "server", *_mlflow_options(site)),
            environment=_server_environments(site, clients)["mlflow"],
            health_url=f"{site.mlflow_url}/health",
            after=after,
        ),
        Service(
            name="worker",
            command=(*_module("prefect"), "worker", "start", *_worker_options(site)),
            environment=clients
            | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
            # the health check of a worker listens on every address unless told
            | {"PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK, "PREFECT_WORKER_WEBSERVER_PORT": str(site.worker_port)},
            health_url=f"http://{LOOPBACK}:{site.worker_port}/health",
            after="prefect",
            leaves_work=True,
        ),
    ]


def _postgres(site: Site, clients: Mapping[str, str]) -> Service:
    secret = {postgres.PASSWORD_VARIABLE: Credentials.of(site.home).postgres}
    return Service(
        name="postgres",
        command=postgres.postgres_command(site.home / "postgres", site.postgres_port),
        environment=dict(clients) | secret,
        health_url=f"postgres://{LOOPBACK}:{site.postgres_port}",
    )


def _server_environments(site: Site, clients: Mapping[str, str]) -> dict[str, dict[str, str]]:
    # the servers are what the clients' URLs name: they must not ask themselves
    plain = {k: v for k, v in clients.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    prefect = plain | {"PREFECT_UI_API_URL": os.environ.get("PREFECT_UI_API_URL", site.api_url)}
    # Prefect answers pages of every origin unless told; its own interface is all that should call it from a browser
    prefect = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(_own_origins(site))} | prefect
    mlflow = dict(plain)
    if is_loopback(site.host):
        # a page that had its own name pointed here asks by that name; MLflow's own list takes 10.* for addresses, names too
        names = [urlsplit(origin).hostname or "" for origin in _own_origins(site)]
        prefect |= {HOST_NAMES: ",".join([*names, clients.get(HOST_NAMES, "")])}
        mlflow = {"MLFLOW_SERVER_ALLOWED_HOSTS": LOOPBACK_HOSTS} | mlflow
    if site.database == "postgres":
        secret = Credentials.of(site.home).postgres
        prefect |= postgres.prefect_environment(site.postgres_port, secret)
        mlflow |= postgres.mlflow_environment(secret)
    if site.is_protected:
        prefect |= Credentials.of(site.home).prefect_environment
        mlflow |= Credentials.of(site.home).mlflow_environment(site.home)
    return {"prefect": prefect, "mlflow": mlflow}


def _own_origins(site: Site) -> list[str]:
    """Return the origins of Prefect's interface: where it listens, the other name of loopback, where a proxy serves it."""
    proxy = urlsplit(os.environ.get("PREFECT_UI_API_URL", site.api_url))
    urls = [site.prefect_url, f"{proxy.scheme}://{proxy.netloc}"]
    if is_loopback(site.host):
        urls += [f"http://{name}:{site.prefect_port}" for name in ("localhost", LOOPBACK)]
    return sorted(set(urls))


def _prefect_options(site: Site) -> list[str]:
    return ["--host", site.host, "--port", str(site.prefect_port)]


def _mlflow_options(site: Site) -> list[str]:
    store = os.environ.get("MLFLOW_BACKEND_STORE_URI") or f"sqlite:///{site.home / 'mlflow.db'}"
    if site.database == "postgres":
        store = postgres.mlflow_uri(site.postgres_port)
    artifacts = (site.home / "mlartifacts").as_uri()
    options = ["--host", site.host, "--port", str(site.mlflow_port), "--workers", "1", "--backend-store-uri", store]
    # a path, not the proxy: a model of some GB is written once and in place, not sent through one HTTP request
    options += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    if site.is_protected:
        options += ["--app-name", "basic-auth"]
    # its log would be the health checks' and the browsers' requests
    return [*options, "--uvicorn-opts", "--log-level warning"]


def _worker_options(site: Site) -> list[str]:
    options = ["--pool", POOL, "--type", "process", "--name", "this-machine", "--with-healthcheck"]
    return [*options, "--limit", str(site.runs_at_once)]


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


def is_loopback(host: str) -> bool:
    """Say whether nothing but this machine can reach what listens there. A name that is not an address may mean anything."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    return LOOPBACK if host in ("0.0.0.0", "::") else host
