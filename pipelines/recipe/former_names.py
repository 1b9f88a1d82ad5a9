"""Former names, during one version: of nodes in shipped recipes, taken for the new ones, and of stages. Here alone old names live."""

from __future__ import annotations

import logging
from collections.abc import Container

# of `tiny` and `recover`: what a student retains of its original
FORMER_NODES = {"left": "retention"}
# What does today what a stage did, for whoever still names it.
FORMER_STAGES = {
    "denoise": "finetune with adapt {kind: guidance} and the objective guided_distance, as in the recipe denoiser"
}
logger = logging.getLogger("attar.recipe")


def current_node(name: str, nodes: Container[str]) -> str:
    """Return the name that a node has today. A former name is taken where the recipe has its successor, and is told in one line."""
    successor = FORMER_NODES.get(name)
    if name in nodes or successor is None or successor not in nodes:
        return name
    logger.warning("node %r is called %r now; the former name goes with the next version", name, successor)
    return successor
