"""Recipes in and models out: what a notebook begins and ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.compressors.catalogue import did_you_mean
from attar.one_line import told_in_one_line
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.whole import Recipe, build_recipe, override_document
from attar.pipelines.recipe.whole import load_recipe as load
from attar.stages.catalogue import STAGES


@told_in_one_line
def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by shipped name or path of a YAML file, checked whole; `overrides` as in `--set node.config.field=value`.

    Raises RecipeError with one line for each mistake.
    """
    return load(str(name_or_path), overrides)


@told_in_one_line
def node(stage: str, *, config: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """Return one node for `Recipe.build`: a stage with its inputs (names of nodes) and its config's fields as keyword arguments.

    A field that shares its name with an input is given in `config`. Raises RecipeError for an unknown stage.
    """
    if stage not in STAGES:
        raise RecipeError(f"stage {stage!r}: unknown stage.{did_you_mean(stage, STAGES)}")
    slots = STAGES[stage].slots
    inputs = {name: value for name, value in arguments.items() if name in slots}
    fields = {name: value for name, value in arguments.items() if name not in slots}
    return {"stage": stage, "config": {**(config or {}), **fields}, "inputs": inputs}


def as_recipe(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe that is given as such, by name or by path, with overrides applied. Raises RecipeError."""
    if isinstance(recipe, str | Path):
        return load(str(recipe), overrides)
    if not overrides:
        return recipe
    document = recipe.as_dict()
    override_document(document, overrides)
    return build_recipe(document, recipe.name)


@told_in_one_line
def pull(model: str, folder: str | Path, *, form: str = "", key: str = "") -> Path:
    """Copy a registered model into a new or empty folder. NAME (its champion), NAME@ALIAS or NAME/VERSION; every file is checked by its sha256.

    Into a folder that an earlier pull filled it moves only the tensors that differ.

    `form`: the folder of one form alone, such as `onnx-int8`, or how its name begins where one does.
    `key`: a PEM file with the public ed25519 key that must have signed the version.

    Raises AttarError where there is no such version, a file differs, or the registry does not answer.
    """
    from attar.registry.artifacts.environment import configure_process
    from attar.registry.release.pull import download_model  # local: MLflow takes seconds to import

    configure_process()
    return download_model(model, Path(folder).expanduser().resolve(), form=form, key=key)
