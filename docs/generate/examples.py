"""The examples of a page: recipes, commands and Python that would not run are mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import yaml
from pydantic import ValidationError

import attar
from attar.pipelines.recipe.file import RecipeError, shipped_recipes
from attar.pipelines.recipe.whole import build_recipe, load_recipe
from attar.stages.catalogue import STAGES
from docs.generate.names import command_names, make_targets, unknown_field


def yaml_mistakes(text: str) -> Iterator[str]:
    """Yield what a recipe, or some nodes of one, name that is not there."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"an example is no YAML: {str(error).splitlines()[0]}"
        return
    if isinstance(document, dict) and "nodes" in document:
        try:
            build_recipe(document)
        except (RecipeError, ValueError) as error:
            if not _is_of_the_reader(error):
                yield f"an example is no recipe: {' '.join(str(error).split())[:300]}"
        document = document["nodes"]
    for name, node in document.items() if isinstance(document, dict) else ():
        if isinstance(node, dict) and "stage" in node:
            yield from _node_mistakes(name, node)


def python_mistakes(text: str) -> Iterator[str]:
    """Yield the names of `attar` and the stages that an example calls and that are not there."""
    for name in re.findall(r"(?<![\w.])attar\.(\w+)", text):
        if not hasattr(attar, name):
            yield f"an example uses attar.{name}, which is not there"
    for name in re.findall(r"(?<![\w.])attar\.stages\.(\w+)\(", text):
        if name not in STAGES:
            yield f"an example calls attar.stages.{name}, which is no stage"


def command_mistakes(text: str) -> Iterator[str]:
    """Yield the commands, options, targets and overrides of a shell example that are not there."""
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split(" #")[0].strip().removeprefix("$ ").split()
        if words[:1] == ["make"]:
            unknown = [word for word in words[1:] if "=" not in word and word not in make_targets()]
            if unknown and re.fullmatch(r"[\w-]+", unknown[0]):
                yield f"`{line.strip()}`: the Makefile has no target {unknown[0]!r}"
        elif words[:1] == ["attar"] and len(words) > 1:
            yield from _attar_mistakes(line.strip(), words[1:])


def _node_mistakes(name: str, node: dict) -> Iterator[str]:
    if node["stage"] not in STAGES:
        yield f"node {name!r} of an example has an unknown stage {node['stage']!r}"
        return
    stage = STAGES[node["stage"]]
    for field in node.get("config") or {}:  # one that is taken under a former name is no example
        if unknown := unknown_field(node["stage"], [field]):
            yield f"node {name!r} of an example: {node['stage']} has no field {unknown!r}"
            return
    try:
        stage.config_type.model_validate(node.get("config") or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if not _is_of_the_reader(error):
            yield f"node {name!r} of an example: {node['stage']}.{field}: {first['msg']}"
    for slot in node.get("inputs") or {}:
        if slot not in stage.slots:
            yield f"node {name!r} of an example: {node['stage']} has no input {slot!r}"


def _attar_mistakes(line: str, words: list[str]) -> Iterator[str]:
    command, *rest = words
    if command.startswith("-"):
        command, rest = "", words
    if command not in command_names():
        yield f"`{line}`: attar has no command {command!r}"
        return
    own = rest[: rest.index("--")] if "--" in rest else rest  # behind `--` stand another program's options
    given = [word.partition("=")[0] for word in own if word.startswith("--")]
    for option in given:
        if option not in command_names()[command]:
            yield f"`{line}`: attar {command} has no option {option!r}"
    if command in ("run", "plan") and rest and rest[0] in shipped_recipes():
        changes = [value.strip("'\"") for word, value in pairwise(rest) if word == "--set"]
        try:
            recipe = load_recipe(rest[0])
            for node, path in (
                change.partition("=")[0].split(".config.") for change in changes if ".config." in change
            ):
                if node in recipe.nodes and (unknown := unknown_field(recipe.nodes[node].stage.name, path.split("."))):
                    yield f"`{line}`: {node} has no field {unknown!r} there"
                    return
            load_recipe(rest[0], changes)
        except (RecipeError, ValueError) as error:
            if not _is_of_the_reader(error):
                yield f"`{line}`: {' '.join(str(error).split())[:300]}"


def _is_of_the_reader(error: Exception) -> bool:
    """Say whether all that is wrong is a file that an example stands for, such as MODEL, which only its reader has."""
    return all("does not exist" in line for line in str(error).splitlines() if "accepted:" in line) and (
        "does not exist" in str(error)
    )
