"""A recipe of one's own as commented YAML. The nodes of the `compress` form, each stage and field with its meaning beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml
from pydantic import ValidationError

from attar.pipelines.cli.recipe_schema import EDITOR_LINE, SCHEMA_FILE
from attar.pipelines.deployments.form import CompressForm
from attar.pipelines.deployments.form_recipe import recipe_document
from attar.pipelines.recipe.explain import explanations
from attar.pipelines.recipe.mistakes import RecipeError
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.files import write_synced
from attar.stages.catalogue import STAGES
from attar.stages.ingest.bare_paths import data_source, model_source

WIDTH = 10_000  # yaml breaks no line before
COMMENT_WIDTH = 110


def filled_form(answers: Mapping[str, Any]) -> CompressForm:
    """Return the form with these answers, a bare path as model or questions given its scheme. Raises RecipeError."""
    given = dict(answers)
    if "model" in given:
        given["model"] = model_source(given["model"])
    if "questions" in given:
        given["questions"] = data_source(given["questions"])
    try:
        return CompressForm.model_validate(given)
    except ValidationError as error:
        lines = explanations(error, given, CompressForm)
        raise RecipeError(*(line.removeprefix("config.").removeprefix("config: ") for line in lines)) from error


def starter_text(form: CompressForm, file_name: str) -> str:
    """Return the recipe of a form as YAML with comments."""
    document = recipe_document(form)
    lines = [
        EDITOR_LINE.format(path=SCHEMA_FILE.name),
        f"# attar plan {file_name} checks it and tells what it costs; attar run {file_name} runs it.",
        "# attar describe STAGE has every field of a stage; what is left out here keeps its default.",
        _entry("name", form.name),
        _entry("description", f"{form.model} made smaller, healed and measured."),
        "nodes:",
    ]
    explained: set[str] = set()
    for name, spec in document["nodes"].items():
        lines += [f"  {line}" for line in _node_lines(name, spec, explained)]
    return "\n".join(lines) + "\n"


def write_starter(path: Path, text: str, *, is_forced: bool = False) -> None:
    """Write a recipe, and beside it the schema that its first line names. Raises ValueError where `path` is taken."""
    if path.is_dir() or (path.exists() and not is_forced):
        cure = "give the path of a file" if path.is_dir() else "give another path, or --force to write over it"
        raise ValueError(f"{path} is there already: {cure}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path.with_name(SCHEMA_FILE.name), SCHEMA_FILE.read_text())
    write_synced(path, text)


def check_starter(text: str, name: str) -> None:
    """Load and plan a recipe's text as a run would. Raises RecipeError with what is wrong."""
    # local: no other use of this module needs the plan
    from attar.pipelines.recipe.file import parse_yaml
    from attar.pipelines.recipe.plan import make_plan
    from attar.pipelines.recipe.whole import build_recipe
    from attar.registry.artifacts.store import Store

    make_plan(build_recipe(parse_yaml(text, f"recipe {name!r}"), name), Store(attar_home()))


def _node_lines(name: str, spec: Mapping[str, Any], explained: set[str]) -> Iterator[str]:
    """Yield the lines of a node; what is `explained` already, a stage or a field, has no comment again."""
    stage = STAGES[spec["stage"]]
    yield from _comment("", stage.name, stage.summary, explained)
    yield f"{name}:"
    yield f"  stage: {stage.name}"
    if spec.get("config"):
        yield "  config:"
        for field, value in spec["config"].items():
            about = stage.config_type.model_fields[field].description or ""
            yield from _comment("    ", f"{stage.name}.{field}", about, explained)
            yield f"    {_entry(field, value)}"
    if spec.get("inputs"):
        yield "  inputs:"
        yield from (f"    {_entry(slot, value)}" for slot, value in spec["inputs"].items())


def _comment(indent: str, name: str, text: str, explained: set[str]) -> Iterator[str]:
    if name not in explained:
        yield from wrap(text, COMMENT_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    explained.add(name)


def _entry(name: str, value: Any) -> str:
    """Return `name: value` on one line."""
    if isinstance(value, dict | list):
        return f"{name}: {yaml.safe_dump(value, default_flow_style=True, width=WIDTH, sort_keys=False).strip()}"
    return yaml.safe_dump({name: value}, allow_unicode=True, width=WIDTH).strip()
