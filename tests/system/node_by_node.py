"""A recipe run node by node in this process: what its stages make, without a flow, a tracker or a report."""

from __future__ import annotations

from pathlib import Path

from attar.pipelines.recipe.plan import stage_inputs
from attar.pipelines.recipe.whole import Recipe
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store


def run_nodes(recipe: Recipe, home: Path) -> dict[str, Artifact]:
    """Return the artifact of every node, by name; the store lies in `home`."""
    store = Store(home)
    made: dict[str, Artifact] = {}
    for node in recipe.nodes.values():
        made[node.name] = node.stage.execute(node.config, stage_inputs(node, made), store).artifact
    return made
