"""The names that a page may use: of stages, fields, inputs, methods, parameters, recipes, commands, and a list of other people's."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import typing
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from attar.pipelines.cli.listing import CATALOGUES
from attar.pipelines.recipe.file import RECIPE_FIELDS, shipped_recipes
from attar.pipelines.recipe.node import NODE_FIELDS
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.release.gate import THRESHOLDS
from attar.stages.catalogue import STAGES
from docs.generate.commands import options

ROOT = Path(__file__).parents[2]
# Names of other projects, facts and tags, one a line; what follows a name says whose it is.
ELSEWHERE = Path(__file__).with_name("names_elsewhere.txt")


def unknown_field(stage: str, path: list[str]) -> str:
    """Return the first name of a path that the stage does not have where it stands, empty where all are there."""
    first, *rest = path
    config = STAGES[stage].config_type
    if first in STAGES[stage].slots and not rest:
        return ""
    if first not in config.model_fields:
        return first
    return _unknown_below(config.model_fields[first].annotation, rest)


def _unknown_below(annotation: Any, path: list[str]) -> str:
    if not path:
        return ""
    if typing.get_origin(annotation) is dict:  # the keys are the recipe's own
        return _unknown_below(typing.get_args(annotation)[1], path[1:])
    fields = {name: field for model in _models(annotation) for name, field in model.model_fields.items()}
    if path[0] not in fields:
        return path[0]
    return _unknown_below(fields[path[0]].annotation, path[1:])


@cache
def known_names() -> set[str]:
    """Return every name that a page may use without saying whose it is."""
    names = {*STAGES, *RECIPE_FIELDS, *NODE_FIELDS}
    for stage in STAGES.values():
        names |= set(stage.slots) | _fields(stage.config_type) | _values(stage.config_type)
        names |= {kind.kind for slot in stage.slots.values() for kind in slot.kinds}
        names |= {kind.kind for kind in stage.output_types}
    names |= THRESHOLDS.keys()
    for methods in CATALOGUES.values():
        names |= set(methods)
        for method in methods.values():
            if dataclasses.is_dataclass(method):
                names |= {field.name for field in dataclasses.fields(method)}
                names |= {value for hint in typing.get_type_hints(method).values() for value in _literals(hint)}
    for recipe in shipped_recipes():
        names |= {recipe, recipe.rpartition("/")[2], *load_recipe(recipe).nodes}
    return names | _arms() | elsewhere()


@cache
def command_names() -> dict[str, set[str]]:
    """Return the options of each command, as they are typed."""
    return {command: {name for name in known if name.startswith("-")} for command, known in options().items()}


@cache
def make_targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def variables() -> set[str]:
    """Return the environment variables of Attar's own that the sources read."""
    return {match for text in _sources() for match in re.findall(r"\bATTAR_[A-Z_]+", text)}


@cache
def tracked_files() -> frozenset[str]:
    """Return the files and folders of the repository, folders with a slash at the end."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {f"{parent.as_posix()}/" for path in listed for parent in Path(path).parents}
    return frozenset({*listed, *folders})


def elsewhere() -> set[str]:
    """Return the names of other projects that pages use."""
    lines = ELSEWHERE.read_text().splitlines()
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}


def _fields(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            names |= _fields(inner)
    return names


def _values(model: type[BaseModel]) -> set[str]:
    values: set[str] = set()
    for field in model.model_fields.values():
        values |= set(_literals(field.annotation))
        for inner in _models(field.annotation):
            values |= _values(inner)
    return values


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for member in typing.get_args(annotation) for inner in _models(member)]


def _literals(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    return [value for member in typing.get_args(annotation) for value in _literals(member)]


def _arms() -> set[str]:
    """Return the rows of the results, so that a page may name what it explains."""
    from docs.generate.results import read_results  # here: a page of results needs none of these names

    return {row[0] for result in read_results().values() for table in result["tables"] for row in table["rows"]}


def _sources() -> list[str]:
    suffixes = (".py", ".sh", ".yaml", "Makefile", "Dockerfile")
    paths = [path for path in tracked_files() if path.endswith(suffixes) and not path.startswith(("docs/", "tests/"))]
    return [(ROOT / path).read_text(errors="ignore") for path in paths if (ROOT / path).is_file()]
