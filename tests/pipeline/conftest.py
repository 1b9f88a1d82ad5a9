"""What runs share: a Prefect server, whose start is half of a tiny run, and models that know one thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.prefect_home import configure_prefect
from tests.pipeline.tiny_models import make_tiny_models


@pytest.fixture(scope="module")
def serve_prefect() -> Iterator[Callable[[Path], dict[str, str]]]:
    """Start a server whose database lies in a home; gives the environment that its clients need."""
    before = dict(os.environ)
    servers = []

    def serve(home: Path) -> dict[str, str]:
        configure_prefect(home)
        from prefect.server.api.server import SubprocessASGIServer  # reads its settings when imported

        server = SubprocessASGIServer()
        server.start(timeout=180)
        servers.append(server)
        return {"PREFECT_API_URL": server.api_url, "PREFECT_HOME": str(home / "prefect")}

    yield serve
    for server in servers:
        server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models and their rows."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_models(folder)
    return folder
