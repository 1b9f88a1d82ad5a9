"""What runs are called in Prefect's lists: by what they work on, where Prefect itself would draw two words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.runtime import flow_run

# Longer ones are cut where lists show them anyway.
MAX_CHARS = 80


def of_form() -> str:
    """Return the name of a run of `compress`: the name in the registry, and the model that is compressed."""
    form = _parameters().get("form", {})
    name, source = (form.get("name"), form.get("model")) if isinstance(form, Mapping) else (form.name, form.model)
    return _cut(f"{name}: {short_source(str(source))}")


def of_recipe() -> str:
    """Return the name of a run of a recipe: the recipe, and what it was changed to."""
    parameters = _parameters()
    return _cut(", ".join([str(parameters.get("name")), *map(str, parameters.get("overrides") or ())]))


def of_night() -> str:
    """Return the name of a night: the recipes that it runs."""
    return _cut(f"night of {', '.join(map(str, _parameters().get('recipes') or ()))}")


def of_sweep() -> str:
    """Return the name of a sweep: the recipe, and the fields that it moves."""
    parameters = _parameters()
    axes = [axis["field"] if isinstance(axis, Mapping) else axis.field for axis in parameters.get("space") or ()]
    return _cut(f"sweep of {parameters.get('recipe')}: {', '.join(axes)}")


def short_source(source: str) -> str:
    """Return what a person calls a source: the file or folder that it ends in, without revision and suffix."""
    last = source.partition("?")[0].rstrip("/").rpartition("/")[2].partition("@")[0]
    return last.rpartition(":")[2].removesuffix(".gguf") or source


def _parameters() -> dict[str, Any]:
    return flow_run.parameters or {}


def _cut(name: str) -> str:
    return name if len(name) <= MAX_CHARS else f"{name[: MAX_CHARS - 3]}..."
