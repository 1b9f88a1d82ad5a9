"""A recipe: YAML of named nodes, checked whole before anything runs. Every refusal is one line: node, field, value, what is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml
from pydantic import ValidationError

from compressors.catalogue import did_you_mean
from pipelines.execution import IN_PROCESS, node_pool, stage_pools
from pipelines.method_card import MethodCard, read_card
from pipelines.recipe_file import RECIPE_FIELDS, RecipeError, read_document, recipe_path
from registry.fingerprint import digest
from stages.catalogue import STAGES
from stages.contract import InputSlot, Stage, StageConfig

NODE_FIELDS = ("stage", "config", "inputs", "execution")
# Names become folders, files and tags.
NAME = r"[A-Za-z0-9_][\w.-]{0,99}"


@dataclass(frozen=True)
class Node:
    """One step: a stage with its config, and for each input slot the nodes that feed it."""

    name: str
    stage: Stage[Any, Any, Any]
    config: StageConfig
    inputs: dict[str, tuple[str, ...]]
    # a work pool, or IN_PROCESS; no part of what is made
    execution: str = IN_PROCESS

    @property
    def upstream(self) -> set[str]:
        """Names of the nodes this one waits for."""
        return {name for names in self.inputs.values() for name in names}


@dataclass(frozen=True)
class Recipe:
    """Nodes in an order in which each comes after those it needs; `card` of a recipe that is a method of the literature."""

    name: str
    description: str
    nodes: dict[str, Node]
    card: MethodCard | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of what the recipe says: stages, versions, configs, edges."""
        return digest(
            [
                [n.name, n.stage.name, n.stage.version, n.config.model_dump(mode="json"), n.inputs]
                for n in self.nodes.values()
            ]
        )

    def until(self, name: str) -> Recipe:
        """Return the part that `name` needs, itself included."""
        self._check_node(name, "--until")
        needed, pending = set(), [name]
        while pending:
            current = pending.pop()
            if current not in needed:
                needed.add(current)
                pending.extend(self.nodes[current].upstream)
        nodes = {key: node for key, node in self.nodes.items() if key in needed}
        return Recipe(self.name, self.description, nodes, self.card)

    def downstream(self, name: str) -> set[str]:
        """Return the names of `name` and of every node that follows from it."""
        self._check_node(name, "--from")
        found = {name}
        for node in self.nodes.values():
            if node.upstream & found:
                found.add(node.name)
        return found

    def _check_node(self, name: str, option: str) -> None:
        if name not in self.nodes:
            raise RecipeError(f"{option} {name!r}: the recipe has no such node.{did_you_mean(name, self.nodes)}")


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by shipped name or path, with `node.config.field=value` overrides applied. Raises RecipeError."""
    document = read_document(name_or_path)
    for text in overrides:
        _override(document, text)
    return build_recipe(document, default_name=recipe_path(name_or_path).stem)


def build_recipe(document: Mapping[str, Any], default_name: str = "recipe") -> Recipe:
    """Return a recipe from its YAML content. Raises RecipeError."""
    _check_fields(document, RECIPE_FIELDS, "recipe")
    specs = document.get("nodes")
    if not isinstance(specs, dict) or not specs:
        raise RecipeError("recipe: `nodes` must map node names to stages")
    try:
        pools = stage_pools(document.get("execution"), STAGES)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    nodes = {name: _node(_checked_name(name, "node"), spec, specs, pools) for name, spec in specs.items()}
    ordered = _sorted(nodes)
    for node in ordered.values():
        _check_edges(node, nodes)
    try:
        card = read_card(document.get("method"))
    except ValueError as error:
        raise RecipeError(f"recipe, method: {error}") from error
    name = _checked_name(document.get("name", default_name), "recipe")
    return Recipe(name, str(document.get("description", "")), ordered, card)


def override(document: dict[str, Any], target: str, value: Any, where: str) -> None:
    """Set `node.config.field` or `node.inputs.slot` of a recipe's YAML content. Raises RecipeError, beginning with `where`."""
    parts = target.split(".")
    nodes = document.get("nodes") or {}
    is_place = len(parts) == 2 and parts[1] == "execution"
    if not is_place and (len(parts) < 3 or parts[1] not in ("config", "inputs")):
        raise RecipeError(f"{where}: the form is node.config.field=value, node.inputs.slot=node or node.execution=pool")
    if parts[0] not in nodes:
        raise RecipeError(f"{where}: the recipe has no node {parts[0]!r}.{did_you_mean(parts[0], nodes)}")
    place = nodes[parts[0]]
    for part in parts[1:-1]:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    place[parts[-1]] = value


def _override(document: dict[str, Any], text: str) -> None:
    target, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set {text!r}: the form is node.config.field=value or node.inputs.slot=node")
    try:
        override(document, target, yaml.safe_load(value), f"--set {text!r}")
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text!r}: the value is not valid YAML") from error


def _node(name: str, spec: Any, specs: Mapping[str, Any], pools: Mapping[str, str]) -> Node:
    if not isinstance(spec, dict):
        raise RecipeError(f"node {name!r}: a mapping with {', '.join(NODE_FIELDS)} is expected")
    _check_fields(spec, NODE_FIELDS, f"node {name!r}")
    stage_name = spec.get("stage")
    if stage_name not in STAGES:
        raise RecipeError(
            f"node {name!r}, stage = {stage_name!r}: unknown stage.{did_you_mean(str(stage_name), STAGES)}"
        )
    stage = STAGES[stage_name]
    try:
        config = stage.config_type.model_validate(spec.get("config") or {})
        pool = node_pool(name, spec, pools)
    except ValidationError as error:
        raise RecipeError(f"node {name!r}, {_explain(error, stage.config_type)}") from error
    except ValueError as error:
        raise RecipeError(str(error)) from error
    inputs = {}
    for slot_name, value in (spec.get("inputs") or {}).items():
        if slot_name not in stage.slots:
            raise RecipeError(
                f"node {name!r}, inputs.{slot_name}: unknown input.{did_you_mean(slot_name, stage.slots)}"
            )
        names = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        for one in names:
            if one not in specs:
                raise RecipeError(
                    f"node {name!r}, inputs.{slot_name} = {one!r}: no such node.{did_you_mean(one, specs)}"
                )
        inputs[slot_name] = names
    return Node(name, stage, config, inputs, pool)


def _checked_name(name: Any, what: str) -> str:
    if not re.fullmatch(NAME, str(name)):
        raise RecipeError(
            f"{what} name {name!r}: accepted: letters, digits, dot, dash, underscore; the first no dot or dash"
        )
    return str(name)


def _check_edges(node: Node, nodes: Mapping[str, Node]) -> None:
    for slot in node.stage.slots.values():
        names = node.inputs.get(slot.name, ())
        where = f"node {node.name!r}, inputs.{slot.name}"
        if slot.is_required and not names:
            raise RecipeError(f"{where}: missing; accepted: a node that makes {_kinds(slot)}")
        if len(names) > 1 and not slot.is_many:
            raise RecipeError(f"{where} = {list(names)}: takes one node, not {len(names)}")
        for name in names:
            made = nodes[name].stage.output_type
            if made not in slot.kinds:
                fitting = [other.name for other in nodes.values() if other.stage.output_type in slot.kinds]
                raise RecipeError(
                    f"{where} = {name!r}: {name} makes {made.kind}; accepted: {_kinds(slot)}"
                    f" (here: {', '.join(fitting) or 'none'})"
                )


def _kinds(slot: InputSlot) -> str:
    return " or ".join(kind.kind for kind in slot.kinds)


def _sorted(nodes: Mapping[str, Node]) -> dict[str, Node]:
    sorter = TopologicalSorter({node.name: sorted(node.upstream) for node in nodes.values()})
    try:
        return {name: nodes[name] for name in sorter.static_order()}
    except CycleError as error:
        raise RecipeError(f"nodes form a cycle: {' -> '.join(error.args[1])}; a node cannot need itself") from error


def _check_fields(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise RecipeError(f"{where}, {name}: unknown field.{did_you_mean(str(name), known)}")


def _explain(error: ValidationError, config_type: type[StageConfig]) -> str:
    """Turn pydantic's first complaint into one line: field, value, what is accepted."""
    first = error.errors()[0]
    path = ".".join(map(str, ("config", *first["loc"])))
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown field.{did_you_mean(str(first['loc'][-1]), config_type.model_fields)}"
    if first["type"] == "missing":
        field = config_type.model_fields.get(str(first["loc"][0]))
        return f"{path}: missing. Accepted: {' '.join((field.description or '').split()) if field else 'a value'}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path} = {first['input']!r}: {message}" if first["loc"] else f"config: {message}"
