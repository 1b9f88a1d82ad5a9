"""An input of vectors in an exported graph. Ids behind the vocabulary's last row are looked up in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class GivenVectors:
    """The graph's input while it is traced; None: the graph has none."""

    vectors: Float[Tensor, "P D"] | None = None


class PrefixTable(nn.Module):
    """An input embedding that looks ids up in its table, and those behind the vocabulary in what is given."""

    def __init__(self, table: nn.Module, given: GivenVectors) -> None:
        super().__init__()
        self.table, self._given = table, given

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        return self.table.weight  # type: ignore[return-value]

    def forward(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        vectors, size = self._given.vectors, self.weight.shape[0]
        assert vectors is not None, "the traced forward sets it before the model is called"
        soft = nn.functional.embedding((input_ids - size).clamp(min=0), vectors)
        return torch.where((input_ids >= size)[..., None], soft, self.table(input_ids.clamp(max=size - 1)))


@contextmanager
def reading_vectors(model: PreTrainedModel) -> Iterator[GivenVectors]:
    """Let the model read vectors beside its vocabulary inside the block."""
    table: Any = model.get_input_embeddings()
    given = GivenVectors()
    model.set_input_embeddings(PrefixTable(table, given))
    try:
        yield given
    finally:
        model.set_input_embeddings(table)
