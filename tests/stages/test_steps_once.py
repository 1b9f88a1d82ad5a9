"""A number of a step stands once in MLflow: a resumed stage tells its steps anew, and of two at one millisecond MLflow keeps the larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.tracking import runs as tracking
from attar.registry.tracking.mlflow_home import open_client
from attar.registry.tracking.runs import Tracker

LOSSES = {0: 5.0, 1: 4.0, 2: 3.5}


def tell(tracker: Tracker, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        tracker.log_metric("student", "loss", loss, step)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all: making one takes ten seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def started(home: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stand_still(monkeypatch, 1_700_000_000.0)
    tracker = Tracker(home)
    tracker.start("run", tags={}, config={})
    tracker.start_node("student", config={}, tags={})
    return tracker


def stand_still(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock stand: all that follows is in one millisecond."""
    monkeypatch.setattr(tracking.time, "time", lambda: seconds)


def history(tracker: Tracker, home: Path) -> list[tuple[int, float]]:
    points = open_client(home).get_metric_history(tracker.node_run_id("student"), "loss")
    return sorted((point.step, point.value) for point in points)


def test_a_step_told_again_is_not_written_again(started: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(started, LOSSES)
    started.leave("student")
    stand_still(monkeypatch, 1_700_000_060.0)
    tell(started, LOSSES)
    started.leave("student")
    again = Tracker(home)  # another process, which goes on with the same run
    again.join("student", started.node_run_id("student"))
    tell(again, LOSSES | {3: 3.0})
    again.leave("student")
    assert history(started, home) == [*LOSSES.items(), (3, 3.0)]


def test_of_two_numbers_of_one_step_the_later_counts_though_it_be_smaller(started: Tracker, home: Path) -> None:
    tell(started, {2: 9.0})
    started.leave("student")
    tell(started, {2: 1.0})
    started.leave("student")
    run = open_client(home).get_run(started.node_run_id("student"))
    assert run.data.metrics["loss"] == 1.0, "MLflow's own rule at one millisecond gives 9"


def test_a_number_that_waits_is_replaced(started: Tracker, home: Path) -> None:
    started._flushed_at["student"] = tracking.time.monotonic() + 1e6  # nothing is written before it is asked for
    tell(started, {0: 9.0})
    tell(started, {0: 1.0})
    started.leave("student")
    assert history(started, home) == [(0, 1.0)]
