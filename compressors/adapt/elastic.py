"""Training of an elastic network: all weights, of which sub-networks have slices. https://arxiv.org/abs/2201.12507"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ElasticWeights:
    """Train every weight, the embedding too. A narrower sub-network reads the first numbers of each row, which must come to say more."""

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model with its weights trainable, in float32; a part that no pooling reads stays."""
        model.float().requires_grad_(True)
        if (unread := getattr(model, "pooler", None)) is not None:
            unread.requires_grad_(False)
        return model
