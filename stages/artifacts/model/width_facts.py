"""What a model's blocks and their width cost, as facts. A stored model's plan can tell the narrowed size before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.width.budget import WidthCost, width_cost
from attar.registry.artifacts.facts import Facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Field of WidthCost -> fact.
COST_FACTS = {
    "num_parameters": "num_parameters",
    "num_blocks": "num_blocks",
    "num_block_parameters": "num_block_parameters",
    "num_channels": "num_ffn_channels",
    "channel_parameters": "ffn_channel_parameters",
    "num_groups": "num_kv_groups",
    "group_parameters": "kv_group_parameters",
}


def width_facts(model: PreTrainedModel) -> Facts:
    """Return the cost of a model's channels and KV groups. Nothing for families whose channels stay or whose blocks differ in size."""
    try:
        cost = width_cost(model)
    except ValueError:
        return {}
    sizes = {sum(parameter.numel() for parameter in block.parameters()) for block in decoder_blocks(model)}
    if not cost.num_channels or len(sizes) > 1:  # what a plan tells of fewer blocks or channels takes them as equal
        return {}
    matrices = sum(parameter.numel() for parameter in decoder_blocks(model).parameters() if parameter.ndim >= 2)
    return {"num_block_matmul_parameters": matrices, **{fact: getattr(cost, name) for name, fact in COST_FACTS.items()}}


def known_cost(facts: Facts) -> WidthCost | None:
    """Return the cost that a model's facts tell, None where they do not."""
    if not facts.keys() >= set(COST_FACTS.values()):
        return None
    return WidthCost(**{name: int(facts[fact]) for name, fact in COST_FACTS.items()})
