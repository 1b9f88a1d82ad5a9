"""What runs share: servers, whose start is half of a tiny run, and models that know one thing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from attar.pipelines.operate.prefect_home import configure_prefect
from tests.databases import start_on_copy
from tests.system.operated import Api, Environment, attar, environment_of, free_ports, write_recipe
from tests.system.tiny_models import make_tiny_models


@pytest.fixture(scope="module")
def serve_prefect(session_folder: Path) -> Iterator[Callable[[Path], dict[str, str]]]:
    """Start a server whose database lies in a home; gives the environment that its clients need."""
    before = dict(os.environ)
    servers = []
    migrated = session_folder / "prefect.db"

    def serve(home: Path) -> dict[str, str]:
        configure_prefect(home)
        from prefect.server.api.server import SubprocessASGIServer  # reads its settings when imported

        # A port of the kernel's. Prefect draws one of a thousand; where two workers draw the same, the second takes the first's server,
        # which answers there, for its own, and its runs are among the other test's.
        server = SubprocessASGIServer(int(free_ports(1)[0]))
        servers.append(server)
        database = home / "prefect" / "prefect.db"
        if database.exists():
            server.start(timeout=180)
        else:
            start_on_copy(migrated, database, lambda: server.start(timeout=180))
        return {"PREFECT_API_URL": server.api_url, "PREFECT_HOME": str(home / "prefect")}

    yield serve
    for server in servers:
        server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A command that runs in the tests' process leaves its servers' addresses in the environment: they are not the next test's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny(session_folder: Path) -> Path:
    """A folder with the tiny models and their rows; trained once, whichever worker asks first."""
    folder = session_folder / "tiny"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            (unfinished := session_folder / "tiny.unfinished").mkdir()
            make_tiny_models(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, clean_environment: Environment) -> Environment:
    """What a command is started with in a workspace of its own, where a recipe and its text lie."""
    workspace = tmp_path_factory.mktemp("operate")
    write_recipe(workspace)
    return environment_of(workspace, clean_environment)


@pytest.fixture(scope="module")
def home(environment: Environment) -> Path:
    return Path(environment["ATTAR_HOME"])


@pytest.fixture(scope="module")
def up(environment: Environment, home: Path) -> Iterator[dict[str, Any]]:
    """The servers, started once for this file by the command itself, and stopped by the command itself."""
    prefect, mlflow, worker, postgres = free_ports(4)
    ports = ("--prefect-port", prefect, "--mlflow-port", mlflow, "--worker-port", worker)
    if os.environ.get("ATTAR_TEST_DATABASE") == "postgres":  # `make test-postgres`: the same tests on it
        ports += ("--database", "postgres", "--postgres-port", postgres)
    done = attar(environment, "up", *ports, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    site = json.loads(done.stdout)
    yield site | {
        "ports": ports,
        "printed": done.stderr,
        "client": {"PREFECT_API_URL": site["api"], "MLFLOW_TRACKING_URI": site["mlflow"]},
    }
    attar(environment, "down")


@pytest.fixture(scope="module")
def api(up: dict[str, Any]) -> Api:
    return Api(up["api"])


@pytest.fixture
def served(up: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process talks to the servers too."""
    monkeypatch.setenv("ATTAR_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up["mlflow"])
