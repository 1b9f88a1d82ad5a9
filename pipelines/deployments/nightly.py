"""Deployment `nightly`: run recipes on the newest base and data. Skip what has not changed, compare with the champion, raise events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed, State
from pydantic import Field

from attar.pipelines.deployments import (
    head_start,  # noqa: F401 - starts the stages' imports
    run_names,
)
from attar.pipelines.deployments.recipe_run import is_unchanged, outcome, run_as_child
from attar.pipelines.deployments.workplace import enter_workplace
from attar.pipelines.recipe.whole import Recipe, build_recipe, override, read_document
from attar.pipelines.run.announce import announce
from attar.registry.release.model_registry import CHAMPION
from attar.registry.release.promotion import judge
from attar.registry.release.versions import find_version, read_version
from attar.stages.ingest.newest_source import newest_source

INGEST = ("ingest_model", "ingest_data")


@flow(name="nightly", flow_run_name=run_names.of_night, persist_result=True, result_serializer="json")
def nightly(
    recipes: Annotated[list[str], Field(min_length=1, max_length=100)] = ["demo"],  # noqa: B006
    max_quality_loss: Annotated[float, Field(ge=0, le=1)] = 0.01,
) -> State:
    """Run each recipe that has news: a newer revision of its base model, other data, or a changed recipe.

    A new version stays candidate, whatever its gate says: the champion changes by `promote` alone.

    Args:
        recipes: Names of shipped recipes, or paths of YAML files.
        max_quality_loss: Share of the champion's accuracy (or perplexity) that a candidate may lose without an alert.
    """
    home = enter_workplace()
    rows = [_night(name, home, max_quality_loss) for name in recipes]
    create_table_artifact(rows, key="nightly", description="What this night brought")
    failed = [f"{row['recipe']}: {row['why']}" for row in rows if row["outcome"] == "failed"]
    if failed:
        return Failed(message="; ".join(failed))
    return Completed(message=", ".join(f"{row['recipe']} {row['outcome']}" for row in rows), data=rows)


def newest_recipe(name: str) -> Recipe:
    """Return a recipe with its sources pinned to what they are now, and no version made champion by itself. Raises ValueError."""
    document = read_document(name)
    for node_name, spec in (document.get("nodes") or {}).items():
        if not isinstance(spec, dict):
            continue
        source = (spec.get("config") or {}).get("source")
        if spec.get("stage") in INGEST and isinstance(source, str):
            override(document, f"{node_name}.config.source", newest_source(spec["stage"], source), name)
        elif spec.get("stage") == "register":
            override(document, f"{node_name}.config.champion", "by_decision", name)
    return build_recipe(document, str(document.get("name", name)))


def _night(name: str, home: Path, max_quality_loss: float) -> dict[str, Any]:
    row: dict[str, Any] = {"recipe": name, "outcome": "failed", "version": "", "champion": "", "why": ""}
    try:
        row |= _run(name, home, max_quality_loss)
    except ValueError as error:  # a recipe that does not load, a hub that does not answer: the others still run
        row["why"] = " ".join(str(error).split())
    announce(f"nightly.{row['outcome']}", name, row)
    return row


def _run(name: str, home: Path, max_quality_loss: float) -> dict[str, Any]:
    recipe = newest_recipe(name)
    if is_unchanged(recipe, home):
        return {"outcome": "unchanged"}
    record = run_as_child(recipe, home)
    made = outcome(record)
    if record.has_failed:
        return {"why": "; ".join(f"{node}: {cause}" for node, cause in made["failed"].items())}
    registered = made["registered"]
    if not registered:
        return {"outcome": "candidate", "why": "the recipe registers nothing"}
    candidate = read_version(f"{registered['name']}/{registered['version']}")
    champion = find_version(candidate.name, CHAMPION)
    verdict = judge(candidate, champion, max_quality_loss)
    return {
        "outcome": "worse" if verdict.is_worse else "candidate",
        "version": f"{candidate.name}/{candidate.number}",
        "champion": champion.number if champion else "",
        "why": "; ".join(verdict.reasons),
    }
