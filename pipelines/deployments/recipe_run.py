"""Run a recipe from a deployed flow, and tell its outcome in plain, small JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.states import State

from attar.pipelines.deployments.workplace import plain_console
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import Recipe
from attar.pipelines.run.flow import run_in_flow, run_recipe
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import RunRecord
from attar.stages.process import start_fork_server


def run_as_child(recipe: Recipe, home: Path) -> RunRecord:
    """Run a recipe as a flow run of its own below the flow that calls."""
    start_fork_server()  # it imports torch while the plan is made
    plan = make_plan(recipe, Store(home))
    return run_recipe(recipe, plan, home, forced=frozenset(), num_workers=0, console=plain_console())


def run_here(recipe: Recipe, home: Path, forced: frozenset[str] = frozenset()) -> tuple[RunRecord, State]:
    """Run a recipe with its nodes as tasks of the flow that calls; `forced` nodes are built whatever is stored."""
    start_fork_server()
    return run_in_flow(recipe, make_plan(recipe, Store(home), forced), home, plain_console(), forced)


def is_unchanged(recipe: Recipe, home: Path) -> bool:
    """Say whether every node of a recipe is stored already."""
    return all(planned.state == "hit" for planned in make_plan(recipe, Store(home)))


def outcome(record: RunRecord) -> dict[str, Any]:
    """Return what a caller of the API gets back: where to look, how each node ended, what was registered."""
    release = next((node for node in record.nodes.values() if node.stage == "register" and node.key), None)
    facts = Store(attar_home()).load(release.stage, release.key).facts if release is not None else {}
    return {
        "run": record.id,
        "mlflow_run": record.mlflow_run_id,
        "report": str(record.folder / "report.html"),
        "nodes": {name: node.state for name, node in record.nodes.items()},
        "failed": {name: node.cause for name, node in record.nodes.items() if node.state == "Failed"},
        "registered": {**facts},
    }
