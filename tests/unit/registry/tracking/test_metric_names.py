"""Every number is kept, whatever its data set is called: under its own name where MLflow takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.tracking.metric_names import MAX_CHARACTERS, metric_name
from attar.registry.tracking.runs import Tracker
from tests.databases import copy_database

OWN = ["accuracy_gsm8k", "healed/mrr.10", "naïve 数", "a-b: c"]
CHANGED = {
    "mrr_numpy,pandas": "mrr_numpy_pandas",
    "accuracy_../x": "accuracy_../x",
    "a//b": "a/_/b",
    "../a": "_/a",
    "loss (test)=1%": "loss _test__1_",
    "tab\tand\nline": "tab_and_line",
}


@pytest.mark.parametrize("name", OWN)
def test_a_name_that_mlflow_takes_stays(name: str) -> None:
    assert metric_name(name) == name


@pytest.mark.parametrize(("name", "taken"), CHANGED.items())
def test_what_mlflow_refuses_becomes_an_underscore(name: str, taken: str) -> None:
    assert metric_name(name) == taken


def test_two_long_names_stay_two() -> None:
    long = "accuracy_" + "x" * 300
    assert len(metric_name(long)) == MAX_CHARACTERS and metric_name(long) != metric_name(long + "y")


def test_mlflow_keeps_numbers_under_every_name(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_database(mlflow_database, tmp_path / "mlflow.db")
    names = [*OWN, *CHANGED, "accuracy_" + "x" * 300]
    tracker = Tracker(tmp_path)
    tracker.start("names", tags={}, config={"mix": {"a,b": 1}})
    tracker.start_node("scores", config={}, tags={})
    for name in names:
        tracker.log_metric("scores", name, 1.0, 0)
    tracker.leave("scores")
    metrics = tracker._client.get_run(tracker.node_run_id("scores")).data.metrics
    assert metrics == dict.fromkeys(map(metric_name, names), 1.0)
