"""A recipe run as its own control: every teacher knows nothing. A distillation is worth its distance from that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attar.pipelines.recipe.mistakes import RecipeError, shown
from attar.pipelines.recipe.node import Node

# https://arxiv.org/abs/2302.12091
RANDOM_TEACHER = "random_teacher"
CONTROLS = (RANDOM_TEACHER,)
# What a control makes is compared, never released under the recipe's name.
LEFT_OUT = "register"


def read_control(given: Any) -> str:
    """Return `control:` of a recipe, empty where none is given. Raises RecipeError for one that is not known."""
    if given is None:
        return ""
    if given not in CONTROLS:
        raise RecipeError(f"recipe, control = {shown(given)}: accepted: {', '.join(CONTROLS)}")
    return str(given)


def as_control(nodes: Mapping[str, Node], control: str) -> dict[str, Node]:
    """Return the nodes of the control's run: random teachers, and nothing registered. Raises RecipeError where no node has a teacher."""
    if not control:
        return dict(nodes)
    changed, has_teacher = {}, False
    for name, node in nodes.items():
        if node.stage.name == LEFT_OUT:
            continue
        config = node.config.with_random_teacher()
        has_teacher = has_teacher or config is not None
        changed[name] = node if config is None else replace(node, config=config)
    if not has_teacher:
        raise RecipeError(
            f"recipe, control = {shown(control)}: no node of it learns from a teacher; accepted: no control"
        )
    return changed
