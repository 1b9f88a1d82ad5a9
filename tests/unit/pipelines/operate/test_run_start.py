"""A run that starts while Prefect's server is away waits for it, and is started once more only where it has not begun."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from attar.pipelines.operate.health import answers, wait_for_answer
from attar.pipelines.operate.prefect_home import await_prefect
from attar.pipelines.operate.run_start import refusal_behind

# Prefect's own handling of what ends an engine, around a first request that nobody answers.
REFUSED_ENGINE = """
from pathlib import Path
import httpx
from prefect.engine import handle_engine_signals
starts = Path("starts")
starts.write_text((starts.read_text() if starts.exists() else "") + "x")
with handle_engine_signals():
    if starts.read_text() == "x":
        httpx.get("http://127.0.0.1:1/api/flow_runs")
"""
START = "from attar.pipelines.operate import run_start; run_start.ENGINE = 'refused_engine'; run_start.start_run(60.0)"


class Probe(http.server.BaseHTTPRequestHandler):
    """Answers, and tells of every flow run that it is in the state which its address names first."""

    def do_GET(self) -> None:
        self.send_response({"/away": 503, "/closed": 401}.get(self.path, 200))
        self.end_headers()
        state, _, run_id = self.path.strip("/").partition("/api/flow_runs/")
        if run_id:
            run = {"id": run_id, "flow_id": run_id, "state": {"type": state, "id": run_id}}
            self.wfile.write(json.dumps(run).encode())

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


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Probe) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("state", "num_starts", "code"), [("PENDING", 2, 0), ("RUNNING", 1, 1)])
def test_a_run_is_started_again_where_it_had_not_begun(
    state: str, num_starts: int, code: int, server: str, tmp_path: Path
) -> None:
    """Its first request was refused: Prefect's engine ends the process with 1 then, and the worker would report the run as crashed."""
    (tmp_path / "refused_engine.py").write_text(REFUSED_ENGINE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]),
        "PREFECT_API_URL": f"{server}/{state}/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT__FLOW_RUN_ID": str(uuid4()),
    }
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert len((tmp_path / "starts").read_text()) == num_starts
    assert ("starting the run again" in done.stderr) == (num_starts == 2)


def test_what_ended_the_engine_is_looked_for_behind_its_end() -> None:
    refused, other = SystemExit(1), SystemExit(1)
    refused.__context__ = RuntimeError("while it was handled")
    refused.__context__.__cause__ = httpx.ConnectError("refused")
    other.__context__ = ValueError("a mistake in the flow")
    assert str(refusal_behind(refused)) == "refused"
    assert refusal_behind(other) is None and refusal_behind(SystemExit(0)) is None
