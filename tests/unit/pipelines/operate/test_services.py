"""The supervisor's parts: process marks, health, ports, restarts after a fall and after silence, doctor's findings on planted faults."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.operate.health import is_healthy, is_port_free, listener
from attar.pipelines.operate.service_state import (
    ProcessMark,
    ServiceState,
    SiteState,
    mark_of,
    read_state,
    running_site,
)
from attar.pipelines.operate.site import Service, client_environment, services
from attar.pipelines.operate.supervisor import BACKOFF_SECONDS, NUM_MISSED, Keeper
from attar.pipelines.operate.up import bring_down, bring_up
from attar.stages.runtime.orphans import end_tree, tree_of
from tests.unit.pipelines.operate.served import free_port, site_of

SLEEPER = [sys.executable, "-c", "import time; print('asleep', flush=True); time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_a_process_id_that_came_round_again_is_not_ours(sleeper: subprocess.Popen[bytes]) -> None:
    mark = mark_of(sleeper.pid)
    assert mark.process is not None
    assert ProcessMark(mark.pid, mark.created - 100.0).process is None
    sleeper.kill()
    sleeper.wait()
    assert mark.process is None


def test_state_survives_the_file_and_names_a_living_supervisor_only(tmp_path: Path) -> None:
    site = site_of(tmp_path / "home", prefect_port=4201)
    state = SiteState(site, mark_of(os.getpid()), {"prefect": ServiceState("healthy", mark_of(os.getpid()), 2, "why")})
    state.save()
    assert read_state(site.home) == state and running_site(site.home) == site
    SiteState(site, ProcessMark(os.getpid(), 1.0)).save()
    assert running_site(site.home) is None


def test_down_stops_what_was_started_here_and_nothing_else(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    site = site_of(tmp_path / "home")
    assert bring_down(site.home) == []
    stranger = ProcessMark(sleeper.pid, mark_of(sleeper.pid).created - 100.0)  # the id of ours, given to someone else
    own_process = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    SiteState(
        site,
        stranger,
        {"prefect": ServiceState("healthy", stranger), "mlflow": ServiceState("healthy", mark_of(own_process.pid))},
    ).save()
    assert bring_down(site.home) == ["mlflow"]
    own_process.wait()
    assert sleeper.poll() is None, "a process that only has the same id was not touched"
    assert read_state(site.home) is None


def test_a_taken_port_is_named_with_its_owner_before_anything_starts(tmp_path: Path, answers: dict[str, int]) -> None:
    site = site_of(tmp_path / "home", mlflow_port=answers["port"], prefect_port=free_port(), worker_port=free_port())
    assert not is_port_free("127.0.0.1", answers["port"]) and f"process {os.getpid()}" in listener(answers["port"])
    with pytest.raises(ValueError, match=rf"port {answers['port']} is taken by process {os.getpid()}.*--mlflow-port"):
        bring_up(site, tmp_path / "prefect.yaml", print)
    assert read_state(site.home) is None and not (site.home / "logs").exists()


def test_health_is_an_answer_with_success(answers: dict[str, int]) -> None:
    url = f"http://127.0.0.1:{answers['port']}/"
    assert is_healthy(url)
    answers["status"] = 503
    assert not is_healthy(url)
    assert not is_healthy(f"http://127.0.0.1:{free_port()}/")


def test_servers_listen_on_loopback_unless_told_and_the_worker_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a run without servers has set for itself must not reach a server that stays
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "false")
    started = {service.name: service for service in services(site_of(tmp_path))}
    for name in ("prefect", "mlflow"):
        command = started[name].command
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert "MLFLOW_TRACKING_URI" not in started[name].environment
        assert started[name].environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED" not in started[name].environment
    worker = started["worker"]
    assert worker.environment["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1" and worker.after == "prefect"
    assert worker.environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert all(service.is_python and service.environment["PYTHONFAULTHANDLER"] == "1" for service in started.values())
    assert client_environment(site_of(tmp_path, mlflow_port=5001))["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"


def test_a_fallen_service_comes_back_and_each_fall_waits_longer(tmp_path: Path, answers: dict[str, int]) -> None:
    state = ServiceState()
    keeper = Keeper(service([sys.executable, "-c", "raise SystemExit(3)"], answers["port"]), state, tmp_path)
    assert not keeper.check(False) and state.state == "waiting", "what it waits for is not there"
    starts = []
    for _ in range(3):
        until(lambda: keeper.check(True) and keeper.child is not None)
        starts.append(time.monotonic())
        until(lambda: keeper.check(True) and state.state == "restarting")
        assert state.reason == "ended with exit code 3" and state.process is None
    assert state.num_restarts == 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[0] >= BACKOFF_SECONDS[0] and gaps[1] >= BACKOFF_SECONDS[1] > BACKOFF_SECONDS[0]


def healthy_keeper(
    tmp_path: Path, answers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Keeper, ServiceState]:
    """A service that answers, asked at every look."""
    monkeypatch.setattr("attar.pipelines.operate.supervisor.HEALTH_SECONDS", 0.0)
    monkeypatch.setattr("attar.pipelines.operate.supervisor.LOOP_SECONDS", 0.0)
    state = ServiceState()
    keeper = Keeper(service(SLEEPER, answers["port"]), state, tmp_path)
    until(lambda: keeper.check(True) and state.state == "healthy")
    return keeper, state


def test_a_service_that_no_longer_answers_is_started_again(
    tmp_path: Path, answers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, state = healthy_keeper(tmp_path, answers, monkeypatch)
    hung, log = state.process, tmp_path / "s.log"
    assert hung is not None
    until(lambda: "asleep" in log.read_text())
    answers["status"] = 503
    until(lambda: keeper.check(True) and state.state == "restarting")
    assert state.reason == f"did not answer {NUM_MISSED} times" and hung.process is None
    log_text = log.read_text()
    assert "Fatal Python error: Aborted" in log_text and 'File "<string>", line 1 in <module>' in log_text, (
        "it says where it hung"
    )
    answers["status"] = 200
    until(lambda: keeper.check(True) and state.state == "healthy")
    assert keeper.child is not None
    end_tree(tree_of(keeper.child.pid), grace_seconds=5.0)


def test_a_service_that_falls_silent_is_not_asked_more_often_than_a_healthy_one(
    tmp_path: Path, answers: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, state = healthy_keeper(tmp_path, answers, monkeypatch)
    answers["status"] = 503
    until(lambda: keeper.check(True) and state.state == "failing")
    monkeypatch.setattr("attar.pipelines.operate.supervisor.HEALTH_SECONDS", 3600.0)
    assert not any(keeper.check(True) for _ in range(2 * NUM_MISSED)) and state.state == "failing"
    assert keeper.child is not None
    end_tree(tree_of(keeper.child.pid), grace_seconds=5.0)


def test_a_tree_is_ended_to_the_last_grandchild_that_ignores_the_request() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {stubborn!r}]); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as top:
        assert top.stdout is not None and top.stdout.readline() == b"ready\n"
        tree = tree_of(top.pid)
        assert len(tree) == 2
        end_tree(tree, grace_seconds=0.5)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in tree)


def service(command: list[str], port: int) -> Service:
    return Service(
        name="s",
        command=tuple(command),
        environment=os.environ | {"PYTHONFAULTHANDLER": "1"},
        health_url=f"http://127.0.0.1:{port}/",
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; a prefect.yaml is expected"),
        ("deployments: [", "not valid YAML: while parsing a flow node"),
        ("name: attar", "a list `deployments`, each with a name, is expected"),
        ("deployments: [compress]", "a list `deployments`, each with a name, is expected"),
    ],
    ids=["absent", "broken", "without deployments", "without names"],
)
def test_a_wrong_prefect_file_is_one_line_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    home, file = tmp_path / "home", tmp_path / "prefect.yaml"
    monkeypatch.setenv("ATTAR_HOME", str(home))
    if content is not None:
        file.write_text(content)
    done = CliRunner().invoke(app, ["up", "--prefect-file", str(file)])
    assert done.exit_code == 2 and not done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith(f"attar: prefect-file {file}: {message}")
    assert not (home / "services").exists()
