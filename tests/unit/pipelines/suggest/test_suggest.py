"""`attar suggest`: budgets are read or refused, and of a store of cuts the largest that keeps the budget comes first."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.report.page import write_report
from attar.pipelines.suggest.budget import Limit, read_budget
from attar.pipelines.suggest.evidence import Case, cases_of
from attar.pipelines.suggest.kept_predictions import calibration, keep_predictions, kept_predictions, predictions_of
from attar.pipelines.suggest.planner import suggest
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import run_records
from tests.evaluations import recorded_run


def cuts(sizes: list[int]) -> list[Case]:
    """Students of one recipe: each block removed saves 10 MB and costs 0.02 nats, times a little noise."""
    return [
        Case(
            f"run {index}",
            "cuts",
            "smaller",
            {"cut.config.num_blocks": size, "cut.config.metric": "angular_distance"},
            {"cut": "prune", "original": "ingest_model"},
            {
                "bytes": (300 - 10 * size) * 1e6,
                "kl": 0.02 * size * (1 + 0.02 * math.sin(index)),
                "minutes": 5.0 + 0.01 * index,
            },
        )
        for index, size in enumerate(sizes)
    ]


def test_the_best_that_keeps_the_budget_comes_first() -> None:
    suggestions = suggest(cuts([1, 2, 3, 4, 6, 8, 9, 10, 12, 14, 16]), read_budget("bytes<=250MB, minutes<=60"))
    assert len(suggestions) == 3
    best = suggestions[0]
    assert best.standing == "surely" and best.predicted["bytes"].high <= 250e6
    size = best.overrides.get("cut.config.num_blocks")
    assert size in (5, 6, 7, None) and best.predicted["kl"].value < 0.16
    assert all(
        entry.predicted["kl"].low <= entry.predicted["kl"].value <= entry.predicted["kl"].high for entry in suggestions
    )
    assert best.command.startswith("attar run cuts") and best.command.endswith("--until smaller")
    none = suggest(cuts([1, 2, 3, 4, 6, 8, 9, 10, 12, 14]), read_budget("bytes<=20MB"))
    assert none[0].standing == "not" and "past bytes" in none[0].why


def test_a_store_without_evidence_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["suggest", "--budget", "bytes<=250MB"])
    assert done.exit_code == 2 and "the store has 0 measured models with bytes; accepted: at least 9" in done.output


def test_runs_of_the_store_become_cases(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    for index in range(3):
        recorded_run(store, "sums", [index], [1.0, 0.0, 1.0])
    cases = cases_of(run_records(store.root), store)
    assert sorted([case.settings for case in cases], key=str) == [
        {"smaller.config.blocks": f"{index}"} for index in range(3)
    ]
    assert all(case.recipe == "sums" and case.stages == {"smaller": "prune"} for case in cases)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("bytes<=250MB, kl<=0.25", [Limit("bytes", True, 250e6), Limit("kl", True, 0.25)]),
        ("retention >= 0.9", [Limit("retention", False, 0.9)]),
    ],
)
def test_budgets_are_read(text: str, limits: list[Limit]) -> None:
    assert read_budget(text) == limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "budget is empty"),
        ("bytes<=1.2.3MB", "'bytes<=1.2.3MB' is no limit; accepted: FIGURE<=NUMBER"),
        ("kl<=.", "'kl<=.' is no limit; accepted: FIGURE<=NUMBER"),
        ("bytes 250MB", "is no limit"),
        ("byte<=1", "unknown figure 'byte'. Did you mean 'bytes'?"),
        ("kl<=3MB", "unit 'MB' is unknown"),
        ("retention<=0.9", "of retention more is better; turn the sign"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_budget(text)


def test_json_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("attar.pipelines.suggest.evidence.cases_of", lambda records, store: cuts(list(range(1, 13))))
    done = CliRunner().invoke(app, ["suggest", "--budget", "bytes<=250MB", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)[0]["command"].startswith("attar run cuts")


def test_what_was_predicted_and_what_came_are_kept_beside_the_run(tmp_path: Path) -> None:
    """Ten runs of a recipe, then one that cut otherwise: its figure is held against what the ten say of it."""
    store = Store(tmp_path / "home")
    for size in range(1, 11):
        recorded_run(store, "cuts", list(range(size)), [1.0], disk_bytes=(100 - 4 * size) * 1_000_000)
    new = recorded_run(store, "cuts", list(range(20, 25)), [1.0], disk_bytes=80_000_000)
    records = run_records(store.root)
    [prediction] = keep_predictions(new, records, store)
    assert (prediction.model, prediction.figure, prediction.came, prediction.num_cases) == (
        "smaller",
        "bytes",
        80e6,
        10,
    )
    assert prediction.low <= prediction.predicted <= prediction.high and prediction.is_within
    page = write_report(new, store).read_text()
    assert "Predicted by the runs before" in page and "10 models" in page
    assert kept_predictions(records) == [prediction.as_row()]
    assert calibration(kept_predictions(records)) == (
        "of 1 figures predicted before their runs, 1 (100%) came within their 90% intervals"
    )
    again = recorded_run(store, "cuts", list(range(20, 25)), [1.0], disk_bytes=80_000_000)
    assert keep_predictions(again, run_records(store.root), store) == [], "measured before: no test of a prediction"
    assert not (again.folder / "predictions.json").exists() and calibration([]) == ""


def test_leaving_each_run_out_its_interval_covers_what_came() -> None:
    """Of a store of cuts with noise: at least 80% of the 90% intervals hold."""
    cases = [replace(case, model=f"smaller{index}") for index, case in enumerate(cuts([1, 2, 3, 4, 5, 6, 8, 9] * 3))]
    noise = random.Random(0)
    cases = [replace(case, figures={"kl": case.figures["kl"] * math.exp(noise.gauss(0, 0.1))}) for case in cases]
    predictions = [
        prediction
        for index, case in enumerate(cases)
        for prediction in predictions_of([case], cases[:index] + cases[index + 1 :])
    ]
    assert len(predictions) == len(cases) and sum(entry.is_within for entry in predictions) >= 0.8 * len(predictions)
