"""Deployment `sweep`: search over fields of a recipe, by grid or Bayesian. For what no other trial beats in quality, size and speed.

Trials are judged by the rows set apart for choices. Only what nothing beats is then measured on the held-out rows, which are reported.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

from attar.pipelines.deployments import (
    head_start,  # noqa: F401 - starts the stages' imports
    run_names,
)
from attar.pipelines.deployments.knee import COST, TIMINGS, Measured, cost_of, knee_of, timing_of
from attar.pipelines.deployments.recipe_run import run_as_child
from attar.pipelines.deployments.search_space import Dimension, make_sampler
from attar.pipelines.deployments.starting_points import suggested_values
from attar.pipelines.deployments.workplace import enter_workplace
from attar.pipelines.recipe.whole import Recipe, RecipeError, build_recipe, override, read_document
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import with_interval
from attar.registry.tracking.run_record import RunRecord
from attar.stages.artifacts.dataset.rows import Split

SIZE = "num_parameters"
# What a sweep looks for; of accuracy and area under the curve more is better.
Quality = Literal["accuracy", "perplexity", "auroc"]
# Of a study: figure on the held-out rows by trial.
REPORTED = "reported"


@flow(name="sweep", flow_run_name=run_names.of_sweep, persist_result=True, result_serializer="json")
def sweep(
    space: Annotated[list[Dimension], Field(min_length=1, max_length=20)],
    recipe: Annotated[str, Field(max_length=500)] = "demo",
    node: Annotated[str, Field(max_length=200)] = "healed_scores",
    search: Literal["grid", "bayesian"] = "bayesian",
    num_trials: Annotated[int, Field(ge=1, le=1000)] = 10,
    quality: Quality = "accuracy",
    seed: Annotated[int, Field(ge=0)] = 0,
    budget: Annotated[str, Field(max_length=500)] = "",
    knee: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
) -> State:
    """Run a recipe many times with changed fields, up to its evaluation, and show which trials nothing else beats.

    Trials are compared on the rows set apart for choices; those that nothing beats are measured on the held-out rows too. What trials
    have in common is built once. Run again with the same search, it goes on where it stopped.

    Args:
        space: Fields of the recipe, each with values or with low and high.
        recipe: Name of a shipped recipe, or path of a YAML file.
        node: The evaluate node whose numbers count.
        search: Every combination of the values, or guesses that learn from the trials before.
        num_trials: How many trials in all; a grid ends earlier when it is through.
        quality: Accuracy or area under the ROC curve (more is better), or perplexity (less is better).
        seed: Of the search.
        budget: Limits such as bytes<=250MB, kl<=0.25: the first trials are what `attar suggest` says of this recipe under them.
        knee: Choose the cheapest trial whose quality is within this share of the best, such as 0.02; 0: choose none.
    """
    home = enter_workplace()
    identity = ["choose", recipe, node, search, quality, seed, [axis.model_dump() for axis in space]]
    study = _study(home, identity, search, space, seed, quality)
    _check(space, recipe, node)
    for values in suggested_values(home, budget, recipe, space, search) if budget else []:
        study.enqueue_trial(values, skip_if_exists=True)

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        return _trial(trial, home, recipe, node, {axis.field: axis.suggest(trial) for axis in space}, quality)

    # a finished trial is one that has numbers: a combination that cannot work does not end the search
    remaining = num_trials - len([axis for axis in study.trials if axis.state.is_finished()])
    if remaining > 0:
        study.optimize(objective, n_trials=remaining, catch=(ValueError, TrialFailed))
    chosen = knee_trial(study, quality, knee)
    _report_front(study, home, recipe, node, quality, chosen)
    return _ended(study, quality, chosen)


def _ended(study: optuna.Study, quality: str, knee: int | None) -> State:
    """Return how a search ended, with its table; failed where no trial has numbers."""
    rows = pareto_rows(study, quality, knee)
    if not rows:
        return Failed(message="; ".join(sorted({str(axis.user_attrs.get("why", "")) for axis in study.trials})))
    create_table_artifact(rows, key="pareto", description=f"{study.study_name}: quality, size and latency by trial")
    message = f"{len(rows)} trials, {sum('*' in row['best'] for row in rows)} on the front"
    return Completed(message=message + (f", knee: trial {knee}" if knee is not None else ""), data=rows)


def _check(space: list[Dimension], recipe: str, node: str) -> None:
    """Refuse here rather than in the first trial."""
    if any(axis.field == part_field(node) for axis in space):
        raise ValueError(f"{part_field(node)} is the sweep's own: trials choose, and their front is reported")
    _recipe(recipe, node, {}, "choose")


class TrialFailed(RuntimeError):
    """A trial's recipe did not run to its evaluation."""


def knee_trial(study: optuna.Study, quality: str, tolerance: float) -> int | None:
    """Return the number of the cheapest trial within a share of the best quality; None for a tolerance of 0."""
    trials = [
        Measured(trial.number, trial.values[0], trial.user_attrs["cost"])
        for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        if trial.values and "cost" in trial.user_attrs and math.isfinite(trial.values[0])
    ]
    return knee_of(trials, tolerance, is_more_better=quality != "perplexity") if tolerance else None


def pareto_rows(study: optuna.Study, quality: str, knee: int | None = None) -> list[dict[str, Any]]:
    """Return one row a finished trial, those on the Pareto front first and marked. No other trial is as good in all and better in one.

    `knee`: the trial that is chosen, marked too.
    """
    front = {trial.number for trial in study.best_trials}
    reported = study.user_attrs.get(REPORTED, {})
    rows = []
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        assert trial.values is not None
        if not all(map(math.isfinite, trial.values)):  # of a search begun by an earlier version
            continue
        value, size, seconds = trial.values
        row = {
            "trial": trial.number,
            "best": " ".join(["*"] * (trial.number in front) + ["knee"] * (trial.number == knee)),
            quality: f"{value:.4f}",
            "95%": trial.user_attrs.get("interval", ""),
            f"{quality} held out": reported.get(str(trial.number), ""),
        }
        speed = trial.user_attrs.get("speed", TIMINGS[0].column)
        row |= {
            "parameters M": f"{size / 1e6:.3f}",
            speed: f"{seconds * 1e3:.3f}",
            **trial.user_attrs.get("counted", {}),
        }
        rows.append({**row, **trial.user_attrs["fields"], "run": trial.user_attrs["run"]})
    return sorted(rows, key=lambda row: (row["best"] == "", row["trial"]))


def part_field(node: str) -> str:
    """Return the field that says which rows an evaluation reads."""
    return f"{node}.config.part"


def _report_front(study: optuna.Study, home: Path, recipe: str, node: str, quality: str, knee: int | None) -> None:
    """Measure what nothing beats, and the knee, on the held-out rows, each once: only the evaluation is new, the rest lies in the store."""
    front = {trial.number for trial in study.best_trials} | ({knee} if knee is not None else set())
    for trial in (trial for trial in study.get_trials() if trial.number in front):
        reported = study.user_attrs.get(REPORTED, {})
        if str(trial.number) in reported or not all(map(math.isfinite, trial.values or [])):
            continue
        fields = {name: json.loads(value) for name, value in trial.user_attrs["fields"].items()}
        record = run_as_child(_recipe(recipe, node, fields, "heldout"), home)
        facts = _measured(record, Store(home), node)
        study.set_user_attr(REPORTED, reported | {str(trial.number): with_interval(_figures(facts), quality)})


def _figures(facts: Facts) -> dict[str, float]:
    return {name: float(value) for name, value in facts.items() if isinstance(value, int | float)}


def _study(home: Path, identity: Any, search: str, space: list[Dimension], seed: int, quality: str) -> optuna.Study:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = home / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / f"{digest}.log"))),
        study_name=f"sweep-{digest}",
        sampler=make_sampler(search, space, seed),
        directions=["minimize" if quality == "perplexity" else "maximize", "minimize", "minimize"],
        load_if_exists=True,
    )


def _trial(
    trial: optuna.Trial, home: Path, recipe: str, node: str, fields: dict[str, Any], quality: str
) -> tuple[float, float, float]:
    trial.set_user_attr("fields", {name: json.dumps(value) for name, value in fields.items()})
    try:
        loaded = _recipe(recipe, node, fields, "choose")
        record = run_as_child(loaded, home)
        trial.set_user_attr("run", record.id)
        facts = _measured(record, Store(home), node)
        numbers = goals(facts, node, quality)
        trial.set_user_attr("interval", with_interval(_figures(facts), quality).partition(" ")[2])
        trial.set_user_attr("speed", timing_of(facts).column)
        trial.set_user_attr("cost", cost_of(facts))
        if COST in facts:
            trial.set_user_attr("counted", {"MFLOPs/image": f"{facts[COST] / 1e6:.1f}"})
        return numbers
    except (ValueError, TrialFailed) as error:
        trial.set_user_attr("why", " ".join(str(error).split()))
        raise


def _recipe(recipe: str, node: str, fields: dict[str, Any], part: Split) -> Recipe:
    """Return the recipe up to its evaluation, with the fields of a trial, measured on one part of the data."""
    document = read_document(recipe)
    loaded = build_recipe(document, recipe).until(node)
    if loaded.nodes[node].stage.name != "evaluate":
        raise RecipeError(f"node {node!r} is a {loaded.nodes[node].stage.name} node; accepted: an evaluate node")
    for field, value in (fields | {part_field(node): part}).items():
        override(document, field, value, f"search space, {field}")
    return build_recipe(document, recipe).until(node)


def _measured(record: RunRecord, store: Store, node: str) -> Facts:
    failed = [f"{name}: {node.cause}" for name, node in record.nodes.items() if node.state == "Failed"]
    if failed:
        raise TrialFailed("; ".join(failed))
    return store.load("evaluate", record.nodes[node].key).facts


def goals(facts: Facts, node: str, quality: str) -> tuple[float, float, float]:
    """Return quality, size and seconds a token. Raises ValueError where one was not measured, TrialFailed where one is no finite number.

    optuna would take infinity for a value like another, and a small model that says nothing for one that nothing beats.
    """
    wanted = (quality, SIZE, timing_of(facts).figure)
    if missing := [name for name in wanted if name not in facts]:
        raise ValueError(f"node {node!r} did not measure {missing[0]}; it has {', '.join(facts)}")
    numbers = {name: float(facts[name]) for name in wanted}
    if wrong := [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]:
        raise TrialFailed(f"node {node!r}: {', '.join(wrong)}")
    return tuple(numbers.values())  # type: ignore[return-value] - the three that are wanted
