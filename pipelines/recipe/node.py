"""One node of a recipe: read from its YAML content, with every mistake in it noted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.recipe.execution import IN_PROCESS, node_pool, node_shards
from attar.pipelines.recipe.explain import explanations
from attar.pipelines.recipe.former_names import FORMER_STAGES
from attar.pipelines.recipe.mistakes import Mistakes, RecipeError, shown
from attar.registry.artifacts.handles import Artifact
from attar.stages.catalogue import STAGES
from attar.stages.contract import InputSlot, Stage, StageConfig
from attar.stages.runtime.older_fields import renewed

NODE_FIELDS = ("stage", "config", "inputs", "execution", "shards")
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
    # of what it makes: the one that its config and inputs say, of a node whose config is wrong any that its stage can make
    kinds: tuple[type[Artifact], ...] = ()
    # how many workers of the pool share its work; no part of what is made either
    shards: int = 1

    @property
    def upstream(self) -> set[str]:
        """Names of the nodes this one waits for."""
        return {name for names in self.inputs.values() for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Return the node's YAML content: the fields that were given, the kind of each alternative among them."""
        config = self.config.model_dump(mode="json", exclude_unset=True)
        inputs = {slot: names[0] if len(names) == 1 else list(names) for slot, names in self.inputs.items() if names}
        pool: dict[str, Any] = {"execution": self.execution} if self.execution != IN_PROCESS else {}
        pool |= {"shards": self.shards} if self.shards > 1 else {}
        parts = {"config": config, "inputs": inputs}
        return {"stage": self.stage.name, **{name: part for name, part in parts.items() if part}, **pool}


def read_node(
    name: str, spec: Any, specs: Mapping[str, Any], pools: Mapping[str, str], mistakes: Mistakes
) -> Node | None:
    """Return a node, its edges not checked yet; None where a mistake leaves nothing to check them by."""
    with mistakes.noted():
        checked_name(name, "node")
    where = f"node {shown(name)}"
    if not isinstance(spec, dict):
        mistakes.add(f"{where} is {shown(spec)}; a mapping with {', '.join(NODE_FIELDS)} is expected")
        return None
    with mistakes.noted():
        check_fields(spec, NODE_FIELDS, where)
    stage_name, pool, shards = spec.get("stage"), IN_PROCESS, 1
    with mistakes.noted():
        pool = node_pool(name, spec, pools)
        shards = node_shards(name, spec, pool, STAGES)
    if not isinstance(stage_name, str) or stage_name not in STAGES:
        known = did_you_mean(str(stage_name) if isinstance(stage_name, str) else "", STAGES)
        if isinstance(stage_name, str) and stage_name in FORMER_STAGES:
            known = f" It is {FORMER_STAGES[stage_name]} now."
        mistakes.add(f"{where}, stage = {shown(stage_name)}: unknown stage.{known}")
        return None
    stage = STAGES[stage_name]
    inputs = _inputs(where, spec.get("inputs"), stage, specs, mistakes)
    config = _config(where, spec.get("config"), stage, mistakes)
    # a node whose config is wrong still has edges; of the others `with_kinds` tells
    kinds = stage.output_types if config is None else ()
    return Node(name, stage, config or stage.config_type.model_construct(), inputs, pool, kinds, shards)


def check_edges(node: Node, nodes: Mapping[str, Node], specs: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Note inputs that are missing, too many, or of a kind that the stage does not take."""
    for slot in node.stage.slots.values():
        names = node.inputs.get(slot.name, ())
        where = f"node {shown(node.name)}, inputs.{slot.name}"
        if slot.is_required and not names:
            mistakes.add(f"{where}: missing; accepted: a node that makes {_kinds(slot)}")
        if len(names) > 1 and not slot.is_many:
            mistakes.add(f"{where} = {shown(list(names))}: takes one node, not {len(names)}")
            continue
        for name in names:
            if name not in nodes:  # a mistake that is noted already, there or here
                continue
            made = nodes[name].kinds
            if not set(made) & set(slot.kinds):
                fitting = [other.name for other in nodes.values() if set(other.kinds) & set(slot.kinds)]
                mistakes.add(
                    f"{where} = {shown(name)}: {name} makes {' or '.join(kind.kind for kind in made)}; accepted: {_kinds(slot)}"
                    f" (here: {', '.join(fitting) or 'none'})"
                )


def with_kinds(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Return the nodes with the kinds that each makes. Where a stage makes what it is given, the nodes before it tell."""
    made: dict[str, tuple[type[Artifact], ...]] = {name: node.kinds for name, node in nodes.items() if node.kinds}
    for name in nodes:
        chain: dict[str, Node] = {}
        first = name
        while first in nodes and first not in chain and first not in made:  # a cycle is refused elsewhere
            chain[first] = node = nodes[first]
            first = next(iter(node.inputs.get(node.stage.follows, ())), "")
        followed: tuple[type[Artifact] | None, ...] = made.get(first) or (None,)
        for node in reversed(chain.values()):
            followed = made[node.name] = tuple(
                dict.fromkeys(node.stage.output_type(node.config, kind) for kind in followed)
            )
    return {name: replace(node, kinds=made[name]) for name, node in nodes.items()}


def checked_name(name: Any, what: str) -> str:
    """Return a name that may become a folder, a file and a tag. Raises RecipeError."""
    if not re.fullmatch(NAME, str(name)):
        raise RecipeError(
            f"{what} name {shown(name)}: accepted: up to 100 letters, digits, dots, dashes, underscores; the first no dot or dash"
        )
    return str(name)


def check_fields(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise RecipeError for fields that are not known, each in a line."""
    lines = [f"{where}, {name}: unknown field.{did_you_mean(str(name), known)}" for name in given if name not in known][
        :100
    ]
    if lines:
        raise RecipeError(*lines)


def _config(where: str, given: Any, stage: Stage[Any, Any, Any], mistakes: Mistakes) -> StageConfig | None:
    if given is not None and not isinstance(given, dict):
        mistakes.add(f"{where}, config = {shown(given)}: accepted: a mapping of fields")
        return None
    with mistakes.noted(f"{where}, config: "):
        try:
            return stage.config_type.model_validate(given or {})
        except ValidationError as error:
            lines = explanations(error, renewed(stage.config_type, given or {})[0], stage.config_type)
            raise RecipeError(*(f"{where}, {line}" for line in lines)) from error
    return None


def _inputs(
    where: str, given: Any, stage: Stage[Any, Any, Any], specs: Mapping[str, Any], mistakes: Mistakes
) -> dict[str, tuple[str, ...]]:
    if given is not None and not isinstance(given, dict):
        mistakes.add(f"{where}, inputs = {shown(given)}: accepted: a mapping of {', '.join(stage.slots) or 'nothing'}")
        return {}
    inputs = {}
    for slot_name, value in (given or {}).items():
        if mistakes.is_full:
            break
        at = f"{where}, inputs.{slot_name}"
        if slot_name not in stage.slots:
            mistakes.add(f"{at}: unknown input.{did_you_mean(str(slot_name), stage.slots)}")
            continue
        names = tuple(map(_node_name, value)) if isinstance(value, list) else (_node_name(value),)
        for name, written in zip(names, value if isinstance(value, list) else [value], strict=True):
            if name is None:
                mistakes.add(f"{at} = {shown(written)}: accepted: the name of a node, or a list of names")
            elif name not in specs:
                mistakes.add(f"{at} = {shown(name)}: no such node.{did_you_mean(name, map(str, specs))}")
        if known := tuple(name for name in names if name is not None):  # an empty list is no input
            inputs[slot_name] = known
    return inputs


def _node_name(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _kinds(slot: InputSlot) -> str:
    return " or ".join(kind.kind for kind in slot.kinds)
