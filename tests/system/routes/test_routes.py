"""With `--protect` every route of both servers refuses a stranger; the routes are those of the servers' own tables. And who may call from a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attar.pipelines.operate.site import Site, is_loopback, services

REFUSED = (401, 403)


def answers_of(what: str, site: Site, *arguments: str, **more: str) -> dict[str, Any]:
    """Ask a server's routes in a process with the environment that `attar up` gives it."""
    name = "mlflow" if what == "mlflow" else "prefect"
    environments = {service.name: service.environment for service in services(site)}
    hosts = "MLFLOW_SERVER_ALLOWED_HOSTS"
    own = (
        environments[name]
        | ({hosts: environments["mlflow"][hosts]} if what == "hosts" else {})
        | more
        | {"PYTHONPATH": os.getcwd()}
    )
    command = [sys.executable, str(Path(__file__).with_name("route_tables.py")), what, *arguments]
    # MLflow makes a database where it is started
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, cwd=site.workspace)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("server", "more", "least"),
    [
        # without the token's check, which would refuse before the password is asked for
        ("prefect", {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false"}, 150),
        ("mlflow", {"_MLFLOW_SGI_NAME": "uvicorn"}, 300),
    ],
    ids=["prefect", "mlflow"],
)
def test_every_route_refuses_a_stranger(server: str, more: dict[str, str], least: int, tmp_path: Path) -> None:
    refusals = answers_of(server, Site(home=tmp_path / "home", workspace=tmp_path, is_protected=True), **more)
    num_questions_of = [(path, method) for path, method, _ in refusals["answers"]]
    assert len(set(num_questions_of)) >= least, "the table was not read whole"
    assert not refusals["missed"], "routes that the server describes and the table lacks"
    let_in = [(path, method, status) for path, method, status in refusals["answers"] if status not in REFUSED]
    assert [entry for entry in let_in if entry[0] not in refusals["open"]] == []
    assert {path: answer for path, answer in refusals["sockets"].items() if answer != "refused"} == {}
    if server == "prefect":
        assert len(refusals["sockets"]) >= 3, "events in and out, and logs"


def test_prefect_answers_pages_of_its_own_origin_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a change that a page can send without asking before, as a form does, lacks the token."""
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://proxy.example/prefect/api")
    ours = ("http://127.0.0.1:4300", "http://localhost:4300", "https://proxy.example")
    others = (
        "https://evil.example",
        "http://127.0.0.1:4301",
        "http://localhost",
        "null",
        "http://127.0.0.1:4300.evil.example",
    )
    site = Site(home=tmp_path / "home", workspace=tmp_path, prefect_port=4300)
    for origin, answer in answers_of("browser", site, *ours, *others).items():
        is_ours = origin in ours
        assert answer["preflight"] == answer["read"] == (origin if is_ours else ""), origin
        assert "Missing CSRF token" in answer["change"], "from wherever it comes"


def test_on_loopback_both_servers_answer_to_their_own_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page whose name was pointed at this machine asks by that name, and its browser lets it read the answer."""
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    ours = ("localhost:4200", "127.0.0.1:5000", "localhost", "[::1]:5000")
    others = ("evil.example", "10.evil.example:5000", "192.168.evil.example", "localhost.evil.example")
    site = Site(home=tmp_path / "home", workspace=tmp_path)
    answers = answers_of("hosts", site, *ours, *others, _MLFLOW_SGI_NAME="uvicorn")
    assert {host: answers[host] for host in ours} == {host: [200, 200] for host in ours}
    assert {host: answers[host] for host in others} == {host: [421, 403] for host in others}


@pytest.mark.parametrize(
    ("host", "is_safe"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("", False),
     ("192.168.1.7", False), ("10.0.0.1", False), ("localhost.example", False), ("127.0.0.1.example", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, is_safe: bool) -> None:
    assert is_loopback(host) is is_safe
