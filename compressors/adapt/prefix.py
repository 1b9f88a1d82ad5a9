"""Vectors before the prompt as what learns, for one set of demonstrations. The model stays bit for bit what it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attar.compressors.models.adapted import LearnedVectors, put_before

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class SoftPrefix:
    """KL(p(y | demonstrations, x) || p(y | v_1..v_P, x)) is lowered in P input vectors v alone; P is `num_vectors`. https://arxiv.org/abs/2104.08691"""

    num_vectors: int = 16

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model, frozen, with the vectors behind its vocabulary. Zeros, until a text is given to begin as."""
        width = model.get_input_embeddings().weight.shape[1]  # type: ignore[union-attr]
        return put_before(model, LearnedVectors(torch.zeros(self.num_vectors, width)), self.num_vectors)  # type: ignore[arg-type]
