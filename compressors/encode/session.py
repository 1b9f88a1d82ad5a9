"""Run a graph that reads whole texts, an encoder's or a classifier's, under the interface of a torch encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# The names of sentence-transformers' own graphs, and that of optimum's classifiers.
INPUTS = ("input_ids", "attention_mask")
TOKENS, VECTORS = "token_embeddings", "sentence_embedding"
LOGITS = "logits"
# Of a graph with early exits: how alike two exits' vectors are where a batch ends, and after how many blocks it did.
MIN_AGREEMENT, DEPTH = "min_agreement", "num_blocks"


class GraphEncoder:
    """An onnxruntime session that gives a row a text, as an `EmbeddingRunner`: vectors, pooled and normalized inside, or logits.

    `settings`: of inputs that have a default, numbers instead. Raises ValueError when onnxruntime fell back to another provider: it does so
    silently.
    """

    device = torch.device("cpu")  # where ids and vectors lie, wherever the session computes

    def __init__(
        self, session: Any, provider: str, output: str = VECTORS, settings: Mapping[str, float] | None = None
    ) -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session, self._output = session, output
        self._settings = {name: np.array(value, np.float32) for name, value in (settings or {}).items()}

    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors or logits of a batch padded on the right."""
        read = zip(INPUTS, (input_ids, attention_mask), strict=True)
        given = {name: tensor.numpy() for name, tensor in read} | self._settings
        (made,) = self.session.run([self._output], given)
        rows = torch.from_numpy(made)
        # a single logit, of a scorer of pairs: of "apart" it is 0
        return torch.cat([torch.zeros_like(rows), rows], dim=-1) if rows.shape[-1] == 1 else rows
