"""Run an encoder's graph under the interface of a torch encoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The names of sentence-transformers' own graphs.
INPUTS = ("input_ids", "attention_mask")
TOKENS, VECTORS = "token_embeddings", "sentence_embedding"


class GraphEncoder:
    """An onnxruntime session that pools and normalizes itself, as an `EmbeddingRunner`.

    Raises ValueError when onnxruntime fell back to another provider: it does so silently.
    """

    device = torch.device("cpu")  # where ids and vectors lie, wherever the session computes

    def __init__(self, session: Any, provider: str) -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session

    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors of a batch padded on the right."""
        read = zip(INPUTS, (input_ids, attention_mask), strict=True)
        (vectors,) = self.session.run([VECTORS], {name: tensor.numpy() for name, tensor in read})
        return torch.from_numpy(vectors)
