"""Passwords: drawn once, read by their owner alone, printed nowhere; servers on loopback unless they ask for one; what a killed run leaves."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.operate.credentials import Credentials, credentials_path
from attar.pipelines.operate.health import is_healthy
from attar.pipelines.operate.service_state import SiteState, adopt_servers, mark_of
from attar.pipelines.operate.site import Site, client_environment, services
from attar.pipelines.operate.up import bring_up

# A flow's process: it marks what it starts, has itself watched, starts a process in a session of its own, as torchrun does, and waits.
FLOW = """
import subprocess, sys, time
from attar.stages.runtime.orphans import claim_children
from attar.stages.runtime.reaper import watch_over_this_process
claim_children()
watch_over_this_process()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def site_of(tmp_path: Path, **options) -> Site:
    return Site(home=tmp_path / "home", workspace=tmp_path, **options)


def test_passwords_are_drawn_once_and_belong_to_their_owner(tmp_path: Path) -> None:
    first = Credentials.of(tmp_path)
    assert Credentials.of(tmp_path) == first and Credentials.of(tmp_path / "other") != first
    path = credentials_path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    words = {first.prefect, first.mlflow, first.mlflow_session, first.postgres}
    assert len(words) == 4 and all(len(word) >= 32 for word in words)
    assert not [word for word in words if word in repr(first)], "a log may print it"


def test_another_address_needs_protection(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"host 0\.0\.0\.0: whoever reaches it could run anything here; leave out --no-protect"
    ):
        bring_up(site_of(tmp_path, host="0.0.0.0"), tmp_path / "prefect.yaml", print)
    assert not credentials_path(tmp_path / "home").exists()


def test_off_loopback_the_command_protects_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes as far as the ports, of which one is taken, where its servers would ask for a password."""
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for more, message in (
            ([], f"port {port} is taken"),
            (["--protect"], f"port {port} is taken"),
            (["--no-protect"], "leave out --no-protect"),
        ):
            done = CliRunner().invoke(app, ["up", "--host", "0.0.0.0", "--prefect-port", port, *more])
            assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.output


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_no_command_line_shows_a_password(tmp_path: Path, database) -> None:
    site = site_of(tmp_path, database=database, is_protected=True)
    secret = Credentials.of(site.home)
    started = {service.name: service for service in services(site)}
    assert list(started) == [*(["postgres"] if database == "postgres" else []), "prefect", "mlflow", "worker"]
    for service in started.values():
        line = " ".join(service.command)
        assert not [
            word for word in (secret.prefect, secret.mlflow, secret.postgres, secret.mlflow_session) if word in line
        ]
    assert started["prefect"].environment["PREFECT_SERVER_API_AUTH_STRING"] == f"attar:{secret.prefect}"
    assert "--app-name" in started["mlflow"].command
    worker = started["worker"].environment
    assert worker["PREFECT_API_AUTH_STRING"] == f"attar:{secret.prefect}"
    assert not {"PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_AUTH_ADMIN_PASSWORD", "PGPASSWORD"} & worker.keys()
    assert secret.postgres not in worker.values(), "a worker reaches no database"
    if database == "postgres":
        assert started["prefect"].after == started["mlflow"].after == "postgres"
        assert started["prefect"].environment["PREFECT_SERVER_DATABASE_PASSWORD"] == secret.postgres


def test_servers_that_ask_for_nothing_draw_nothing(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    services(site)
    client_environment(site)
    assert not credentials_path(site.home).exists()


def test_our_password_goes_to_our_servers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(tmp_path, is_protected=True)
    SiteState(site, mark_of(os.getpid())).save()
    before = dict(os.environ)
    try:
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_AUTH_STRING"):
            os.environ.pop(name, None)
        os.environ["PREFECT_API_URL"] = "https://elsewhere.example/api"
        adopt_servers(site.home)
        assert "PREFECT_API_AUTH_STRING" not in os.environ and "MLFLOW_TRACKING_PASSWORD" not in os.environ
        del os.environ["PREFECT_API_URL"], os.environ["MLFLOW_TRACKING_URI"]
        adopt_servers(site.home)
        assert os.environ["PREFECT_API_AUTH_STRING"] == f"attar:{Credentials.of(site.home).prefect}"
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_database_that_does_not_listen_is_not_well(free_port: int) -> None:
    assert not is_healthy(f"postgres://127.0.0.1:{free_port}")


@pytest.fixture
def free_port() -> int:
    from socket import socket

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("whole_group", [False, True], ids=["the process", "its group"])
def test_what_a_killed_flow_started_in_sessions_of_their_own_ends_too(whole_group: bool) -> None:
    flow = subprocess.Popen([sys.executable, "-c", FLOW], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert flow.stdout is not None
    child = psutil.Process(int(flow.stdout.readline()))
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        (os.killpg if whole_group else os.kill)(flow.pid, signal.SIGKILL)
        flow.wait()
        gone, alive = psutil.wait_procs([child], timeout=60)
        assert gone
        assert not alive
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        flow.stdout.close()


def entered(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a container's first command sees behind docker/entrypoint.sh."""
    words = ["sh", "docker/entrypoint.sh", "sh", "-c", command]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "ATTAR_HOME": str(folder), **environment},
        check=False,
    )


def test_a_container_reads_its_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a 'quoted' $word\n")
    done = entered(
        tmp_path,
        'printf %s "$PGPASSWORD|${PGPASSWORD_FILE-gone}|$SSL_CERT_FILE"',
        PGPASSWORD_FILE=str(tmp_path / "password"),
        SSL_CERT_FILE="/certs",
    )
    assert done.stdout == "a 'quoted' $word|gone|/certs", "other variables of that form are not secrets"


def test_a_container_says_what_is_wrong_with_it_before_anything_starts(tmp_path: Path) -> None:
    done = entered(tmp_path, "echo started", HF_TOKEN_FILE=str(tmp_path / "absent"))
    assert done.returncode == 78 and "HF_TOKEN_FILE names" in done.stderr and "started" not in done.stdout
    done = entered(tmp_path / "absent", "echo started")
    assert done.returncode == 78 and "is not writable by user" in done.stderr and "started" not in done.stdout


def test_passwords_for_compose_are_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "make-secrets.sh").write_text(Path("docker/make-secrets.sh").read_text())

    def drawn() -> dict[str, str]:
        subprocess.run(["sh", str(tmp_path / "make-secrets.sh")], check=True, capture_output=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = drawn()
    assert len(set(first.values())) == len(first) == 8 and all(len(word) >= 32 for word in first.values())
    assert drawn() == first
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_a_flow_goes_on_when_nobody_reads_its_lines_any_more(tmp_path: Path) -> None:
    """A worker reads a flow's lines through pipes; rich ends a process at the first line after the worker was killed."""
    script = (
        "import pathlib, sys; from rich.console import Console; from attar.pipelines.deployments.outliving import outlive_reader\n"
        "outlive_reader(); out, err = Console(), Console(stderr=True)\n"
        "out.print('first'); err.print('told'); sys.stdin.readline()\n"
        "for _ in range(50): out.print('x' * 5000, highlight=False); err.print('x' * 5000, highlight=False)\n"
        "pathlib.Path('went_on').touch(); print('last')"
    )
    words = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, text=True, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    ) as flow:
        assert flow.stdin is not None and flow.stdout is not None and flow.stderr is not None
        assert (flow.stdout.readline(), flow.stderr.readline()) == ("first\n", "told\n")
        flow.stdout.close()
        flow.stderr.close()
        flow.stdin.close()
    assert (tmp_path / "went_on").exists()
    whole = subprocess.run(words, text=True, input="\n", capture_output=True, cwd=tmp_path, env=environment, check=True)
    assert whole.stdout.startswith("first\n") and whole.stdout.endswith("last\n"), (
        "what is read arrives to the last line"
    )
    assert whole.stdout.count("x") == whole.stderr.count("x") == 250_000
