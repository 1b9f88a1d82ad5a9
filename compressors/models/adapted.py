"""What a model is under adapters, and with vectors in its input beside its vocabulary.

PEFT is not imported for that: it takes half a second and brings bitsandbytes. Vectors go by ids behind the last token, so that batches, masks
and caches stay as they are: with V rows in the embedding and P vectors a group, id V + g P + j is vector j of group g.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.blocks import block_tables, decoder_blocks
from attar.compressors.models.trained_weights import HasParameters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def is_adapted(model: Any) -> TypeGuard[PeftModel]:
    """Say whether PEFT has wrapped a model; where nothing has imported PEFT, it has wrapped none."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def has_base(model: Any) -> bool:
    """Say whether what learns stands beside a base that stays: adapters, or vectors behind its vocabulary."""
    return is_adapted(model) or soft_tokens(model) is not None


@contextmanager
def base_alone(model: Any) -> Iterator[None]:
    """Let the base of a model that has one run alone. Adapters are off; vectors are, as a text without their ids meets none."""
    if not is_adapted(model):
        yield
        return
    with model.disable_adapter():
        yield


def mixed_precision(model: HasParameters) -> torch.autocast:
    """Return the context in which a model multiplies in bf16. Its weights are bf16, those that are trained float32."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=torch.bfloat16 in dtypes)


def plain_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the transformers model, its adapters in place."""
    return model.get_base_model() if is_adapted(model) else model  # type: ignore[return-value]


def first_trained_block(model: PreTrainedModel) -> int:
    """Return the index of the first block that is trained. 0 when the input embedding is, the number of blocks when none is."""
    if any(p.requires_grad for p in model.get_input_embeddings().parameters()):
        return 0
    blocks = decoder_blocks(model)
    trained = [i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    return min(trained, default=len(blocks))


class VectorSource(Protocol):
    """Gives the vectors of groups: a parameter that is learned, a file's, or what a compressor makes of demonstrations."""

    def __call__(self, groups: Int[Tensor, "N"], /) -> Float[Tensor, "N P D"]: ...

    def show(self, shown: Sequence[Sequence[int]], table: nn.Module) -> None:
        """Take what each group stands for, as ids of the vocabulary in `table`, before anything is learned."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]: ...


class LearnedVectors(nn.Module):
    """Vectors that are weights, the same for every group."""

    def __init__(self, vectors: Float[Tensor, "P D"]) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().float().clone())

    def forward(self, groups: Int[Tensor, "N"]) -> Float[Tensor, "N P D"]:
        return self.vectors[None].expand(len(groups), -1, -1)

    @torch.no_grad()
    def show(self, shown: Sequence[Sequence[int]], table: nn.Module) -> None:
        """Begin as rows of the one text that they stand for, evenly spread over it."""
        rows = torch.tensor(spread_rows(shown[0], len(self.vectors)), device=self.vectors.device)
        self.vectors.copy_(table(rows))


class SoftTokens(nn.Module):
    """A model's input embedding with vectors behind its last row. Texts without any pass through the table alone, as before."""

    def __init__(self, table: nn.Module, source: VectorSource, num_vectors: int) -> None:
        super().__init__()
        self.table, self.source, self.num_vectors = table, source, num_vectors

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """The vocabulary's rows, which a tied head shares."""
        return self.table.weight  # type: ignore[return-value]

    @property
    def num_rows(self) -> int:
        """Rows of the vocabulary: the id of the first vector."""
        return self.weight.shape[0]

    def ids(self, group: int = 0) -> list[int]:
        """Return the ids of a group's vectors, to be put before a prompt."""
        start = self.num_rows + group * self.num_vectors
        return list(range(start, start + self.num_vectors))

    def forward(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        is_soft = input_ids >= self.num_rows
        if not bool(is_soft.any()):
            return self.table(input_ids)
        soft = input_ids[is_soft] - self.num_rows
        groups, numbered = torch.unique(soft // self.num_vectors, return_inverse=True)
        embedded = self.table(input_ids.masked_fill(is_soft, 0))
        vectors = self.source(groups)[numbered, soft % self.num_vectors]
        return embedded.index_put((is_soft,), vectors.to(embedded.dtype))


def put_before(model: PreTrainedModel, source: Any, num_vectors: int) -> PreTrainedModel:
    """Return the model, all of it frozen, with a source of vectors behind its vocabulary.

    Raises ValueError for a family that looks a token's id up in a second table, which has no row for a vector.
    """
    table: Any = model.get_input_embeddings()
    size = table.weight.shape[0]
    others = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not table and len(m.weight) == size]
    if others or block_tables(model):
        raise ValueError(
            f"{type(model).__name__} looks a token up in more tables than one, and a vector has a row in none; accepted: one table"
        )
    model.requires_grad_(False)
    model.set_input_embeddings(SoftTokens(table, source.to(table.weight.device), num_vectors))
    return model


def soft_tokens(model: Any) -> SoftTokens | None:
    """Return the vectors behind a model's vocabulary; None where it has none."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return table if isinstance(table, SoftTokens) else None


def spread_rows(rows: Sequence[int], num_vectors: int) -> list[int]:
    """Return so many of these token ids, evenly spread over them in order: what vectors of a text begin as."""
    if not rows:
        return [0] * num_vectors
    return [rows[index * len(rows) // num_vectors] for index in range(num_vectors)]
