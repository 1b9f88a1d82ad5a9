"""What encoders of each family call the matrices that make queries, keys and values. A loss names them alike for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A family's own words for them, in this order.
OWN_NAMES = (("query", "key", "value"), ("q", "k", "v"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
PROJECTIONS = OWN_NAMES[-1]


def projection_names(model: PreTrainedModel, names: Sequence[str]) -> dict[str, str]:
    """Return, of those of the names that are projections, what the last block calls each. Raises ValueError where it has no such matrices."""
    asked_for = [name for name in names if name in PROJECTIONS]
    if not asked_for:
        return {}
    modules = {name.rpartition(".")[2] for name, _ in decoder_blocks(model)[-1].named_modules()}
    own = next((some for some in OWN_NAMES if modules.issuperset(some)), None)
    if own is None:
        raise ValueError(
            f"{type(model).__name__}: its blocks have no separate queries, keys and values; self_attention_relation cannot read them"
        )
    return {name: own[PROJECTIONS.index(name)] for name in asked_for}
