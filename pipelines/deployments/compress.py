"""Deployments `compress`, from a form, and `recipe`, by a recipe's name. One run, its nodes as tasks of the flow run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from attar.pipelines.deployments import (
    head_start,  # noqa: F401 - starts the stages' imports
    run_names,
)
from attar.pipelines.deployments.form import CompressForm
from attar.pipelines.deployments.form_recipe import recipe_document
from attar.pipelines.deployments.recipe_run import outcome, run_here
from attar.pipelines.deployments.workplace import enter_workplace
from attar.pipelines.recipe.whole import Recipe, build_recipe, load_recipe

# A node that waits for another holds a thread.
MAX_NODES = 256
THREADS: Any = ThreadPoolTaskRunner(max_workers=MAX_NODES)  # type: ignore[arg-type]
DEFAULTS = CompressForm.model_validate({})


@flow(
    name="compress", flow_run_name=run_names.of_form, task_runner=THREADS, persist_result=True, result_serializer="json"
)
def compress(form: CompressForm = DEFAULTS) -> Any:
    """Compress a model: fill in the form and press Run.

    Args:
        form: What becomes how much smaller, and what it must still be able to do.
    """
    home = enter_workplace()
    document = recipe_document(form)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    create_markdown_artifact(
        f"Saved as a file, `attar run FILE.yaml` does the same:\n```yaml\n{text}```",
        key="recipe",
        description="The recipe that the form stands for",
    )
    return _run(build_recipe(document, form.name), home)


@flow(
    name="recipe", flow_run_name=run_names.of_recipe, task_runner=THREADS, persist_result=True, result_serializer="json"
)
def recipe(
    name: Annotated[str, Field(max_length=500)] = "tiny",
    overrides: Annotated[list[str], Field(max_length=200)] = [],  # noqa: B006 - Prefect reads the default
    from_node: Annotated[str, Field(max_length=200)] = "",
) -> Any:
    """Run a recipe as it stands.

    Args:
        name: Name of a shipped recipe, or path of a YAML file.
        overrides: Changes to it, each node.config.field=value.
        from_node: Build this node and all that follows from it anew, whatever is stored; empty: reuse what is.
    """
    home = enter_workplace()
    loaded = load_recipe(name, overrides)
    return _run(loaded, home, frozenset(loaded.downstream(from_node)) if from_node else frozenset())


def _run(loaded: Recipe, home: Path, forced: frozenset[str] = frozenset()) -> State:
    record, state = run_here(loaded, home, forced)
    made = outcome(record)
    if state.is_failed():
        return Failed(message="; ".join(f"{name}: {why}" for name, why in made["failed"].items()))
    return Completed(message=state.message, data=made)
