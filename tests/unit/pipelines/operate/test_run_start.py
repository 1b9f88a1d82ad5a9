"""A run that starts while Prefect's server is away waits for it, and is started once more only where it has not begun."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from attar.pipelines.operate.health import answers, wait_for_answer
from attar.pipelines.operate.prefect_home import await_prefect


class Probe(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/away": 503, "/closed": 401}.get(self.path, 200))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def late_server(port: int) -> Iterator[str]:
    """A server that listens half a second after it is asked first."""
    made: list[http.server.HTTPServer] = []

    def serve() -> None:
        made.append(http.server.HTTPServer(("127.0.0.1", port), Probe))
        made[0].serve_forever(poll_interval=0.05)

    timer = threading.Timer(0.5, serve)
    timer.start()
    yield f"http://127.0.0.1:{port}"
    timer.join(0)
    made[0].shutdown()
    made[0].server_close()


def test_a_server_that_comes_late_is_waited_for(late_server: str) -> None:
    assert not answers(f"{late_server}/health")
    assert wait_for_answer(f"{late_server}/health", 30.0)
    assert answers(f"{late_server}/closed"), "it asks for a password: it is there"
    assert not answers(f"{late_server}/away"), "a proxy answers for it"


def test_a_server_that_does_not_come_is_one_line(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setattr("attar.pipelines.operate.prefect_home.NAMED_SECONDS", 0.1)
    lines: list[str] = []
    with pytest.raises(ValueError, match="does not answer") as refusal:
        await_prefect(tmp_path, lines.append)
    assert "\n" not in str(refusal.value) and "waiting up to" in lines[0]
    monkeypatch.delenv("PREFECT_API_URL")
    await_prefect(tmp_path, lines.append)
    assert len(lines) == 1, "a run with a server of its own waits for none"
    assert "PREFECT_API_URL" not in os.environ
