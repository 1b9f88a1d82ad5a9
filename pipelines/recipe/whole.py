"""A recipe: YAML of named nodes, checked whole before anything runs. Every mistake is told, in one line: node, field, value, what is accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Self

import yaml

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.recipe.control import as_control, read_control
from attar.pipelines.recipe.execution import stage_pools
from attar.pipelines.recipe.file import RECIPE_FIELDS, parse_yaml, read_document, recipe_path
from attar.pipelines.recipe.flat_form import flat_fields, renew_node
from attar.pipelines.recipe.former_names import current_node
from attar.pipelines.recipe.method_card import MethodCard, read_card
from attar.pipelines.recipe.mistakes import Mistakes, RecipeError, shown
from attar.pipelines.recipe.node import Node, check_edges, check_fields, checked_name, read_node, with_kinds
from attar.pipelines.recipe.notebook_table import html_table, text_table
from attar.pipelines.recipe.plain_values import check_plain
from attar.registry.artifacts.fingerprint import digest
from attar.stages.catalogue import STAGES

# Each waits in a thread of its own, and is a row of every table.
MAX_NODES = 1000


@dataclass(frozen=True, repr=False)
class Recipe:
    """Nodes in an order in which each comes after those it needs. `card` of a recipe that is a method of the literature.

    Made by `load_recipe` from YAML, or by `Recipe.build` from the same content in Python.
    """

    name: str
    description: str
    nodes: dict[str, Node]
    card: MethodCard | None = None
    # nodes with a config in the flat form of earlier versions, and what the new form says instead
    flat: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # what it is run as a control of, such as random_teacher; empty: as it is written
    control: str = ""

    @classmethod
    def build(
        cls,
        name: str,
        nodes: Mapping[str, Mapping[str, Any]],
        *,
        description: str = "",
        execution: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a recipe from nodes `{name: {"stage": ..., "config": {...}, "inputs": {...}}}`, checked whole. Raises RecipeError."""
        plain = {node: dict(spec) if isinstance(spec, Mapping) else spec for node, spec in nodes.items()}
        document = {"name": name, "description": description, "execution": execution, "nodes": plain}
        return build_recipe(document, name)  # type: ignore[return-value]

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe's YAML content, with the fields that were given."""
        nodes = {node.name: node.as_dict() for node in self.nodes.values()}
        method = {"method": {**asdict(self.card), "tests": list(self.card.tests)}} if self.card else {}
        control = {"control": self.control} if self.control else {}
        return {"name": self.name, "description": self.description, **control, **method, "nodes": nodes}

    def to_yaml(self) -> str:
        """Return the recipe as the text of a file that `load_recipe` reads."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

    def __repr__(self) -> str:
        return text_table(self._rows, f"Recipe {self.name}", self.description)

    def _repr_html_(self) -> str:
        return html_table(self._rows, f"Recipe {self.name}", self.description)

    @property
    def _rows(self) -> list[dict[str, str]]:
        contents = {node.name: node.as_dict() for node in self.nodes.values()}
        return [
            {
                "node": name,
                "stage": content["stage"],
                "inputs": _listed(content.get("inputs", {})),
                "config": _listed(content.get("config", {})),
            }
            for name, content in contents.items()
        ]

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
        name = self._checked_node(name, "--until")
        needed, pending = set(), [name]
        while pending:
            current = pending.pop()
            if current not in needed:
                needed.add(current)
                pending.extend(self.nodes[current].upstream)
        nodes = {key: node for key, node in self.nodes.items() if key in needed}
        return replace(self, nodes=nodes)

    def downstream(self, name: str) -> set[str]:
        """Return the names of `name` and of every node that follows from it."""
        name = self._checked_node(name, "--from")
        names = {name}
        for node in self.nodes.values():
            if node.upstream & names:
                names.add(node.name)
        return names

    def _checked_node(self, name: str, option: str) -> str:
        name = current_node(name, self.nodes)
        if name not in self.nodes:
            raise RecipeError(f"{option} {shown(name)}: the recipe has no such node.{did_you_mean(name, self.nodes)}")
        return name


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by shipped name or path, with `node.config.field=value` overrides applied. Raises RecipeError."""
    document = read_document(name_or_path)
    flat = flat_fields(document)
    override_document(document, overrides)
    recipe = build_recipe(document, default_name=recipe_path(name_or_path).stem)
    return replace(recipe, flat={**flat, **recipe.flat})


def build_recipe(document: Mapping[str, Any], default_name: str = "recipe") -> Recipe:
    """Return a recipe from its YAML content. Raises RecipeError with every mistake."""
    check_plain(document)
    mistakes = Mistakes()
    with mistakes.noted():
        check_fields(document, RECIPE_FIELDS, "recipe")
    name, card = document.get("name", default_name), None
    with mistakes.noted():
        name = checked_name(name, "recipe")
    with mistakes.noted("recipe, method: "):
        card = read_card(document.get("method"))
    pools: dict[str, str] = {}
    with mistakes.noted():
        pools = stage_pools(document.get("execution"), STAGES)
    nodes: dict[str, Node] = {}
    with mistakes.noted():
        nodes = _nodes(document.get("nodes"), pools, mistakes)
    control = ""
    with mistakes.noted():
        control = read_control(document.get("control"))
    mistakes.refuse()
    nodes = as_control(nodes, control)
    return Recipe(name, str(document.get("description", "")), nodes, card, flat_fields(document), control)


def override_document(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply every `node.config.field=value` to a recipe's YAML content. Raises RecipeError with every mistake."""
    mistakes = Mistakes()
    for text in overrides:
        with mistakes.noted():
            _override(document, text)
    mistakes.refuse()


def override(document: dict[str, Any], target: str, value: Any, where: str) -> None:
    """Set `node.config.field` or `node.inputs.slot` of a recipe's YAML content. Raises RecipeError, beginning with `where`."""
    if target == "control":
        document["control"] = value
        return
    parts = target.split(".")
    nodes = document.get("nodes")
    is_of_node = len(parts) == 2 and parts[1] in ("execution", "shards")
    if not is_of_node and (len(parts) < 3 or parts[1] not in ("config", "inputs")):
        raise RecipeError(
            f"{where}: the form is node.config.field=value, node.inputs.slot=node, node.execution=pool or node.shards=number"
        )
    if not isinstance(nodes, dict):
        raise RecipeError(f"{where}: `nodes` of the recipe is {shown(nodes)}; accepted: node names with a stage each")
    parts[0] = current_node(parts[0], nodes)
    if parts[0] not in nodes:
        raise RecipeError(
            f"{where}: the recipe has no node {shown(parts[0])}.{did_you_mean(parts[0], map(str, nodes))}"
        )
    node = nodes[parts[0]]
    if not isinstance(node, dict):
        raise RecipeError(f"{where}: node {shown(parts[0])} is {shown(node)}; accepted: a mapping with a stage")
    renew_node(node)
    for part in parts[1:-1]:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[parts[-1]] = value


def _override(document: dict[str, Any], text: str) -> None:
    target, equals, value = text.partition("=")
    where = f"--set {shown(text)}"
    if not equals:
        raise RecipeError(f"{where}: the form is node.config.field=value or node.inputs.slot=node")
    is_text = target.split(".")[1:2] == ["inputs"]
    override(document, target, parse_yaml(value, where, is_text=is_text), where)


def _listed(values: Mapping[str, Any]) -> str:
    """Return a mapping on one line, without its outer braces."""
    return yaml.safe_dump(dict(values), default_flow_style=True, width=10_000, sort_keys=False).strip()[1:-1]


def _nodes(specs: Any, pools: Mapping[str, str], mistakes: Mistakes) -> dict[str, Node]:
    """Return the nodes in their order, and note what is wrong with each; without order where something is."""
    if not isinstance(specs, dict) or not specs:
        raise RecipeError("recipe: `nodes` must map node names to stages")
    if len(specs) > MAX_NODES:
        raise RecipeError(f"recipe: {len(specs)} nodes; accepted: {MAX_NODES} at most")
    nodes = {}
    for name, spec in specs.items():
        if mistakes.is_full:
            break
        node = read_node(str(name), spec, specs, pools, mistakes)
        if node is not None:
            nodes[node.name] = node
    nodes = with_kinds(nodes)
    for node in nodes.values():
        check_edges(node, nodes, specs, mistakes)
    return _sorted(nodes)


def _sorted(nodes: Mapping[str, Node]) -> dict[str, Node]:
    sorter = TopologicalSorter({node.name: sorted(node.upstream & nodes.keys()) for node in nodes.values()})
    try:
        return {name: nodes[name] for name in sorter.static_order()}
    except CycleError as error:
        raise RecipeError(f"nodes form a cycle: {' -> '.join(error.args[1])}; a node cannot need itself") from error
