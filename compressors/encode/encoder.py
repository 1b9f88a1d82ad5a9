"""A sentence encoder. A transformer that sees both sides of every token, whose states are pooled to a vector a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.catalogue import did_you_mean
from attar.compressors.models.slots import pad_right

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens, padding counted, of one forward pass: more fill no processor's cache better.
TOKENS_PER_BATCH = 2048
# Below it no text has tokens: as sentence-transformers divides.
LEAST_TOKENS = 1e-9


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=LEAST_TOKENS)


def _mean_sqrt_len(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=LEAST_TOKENS).sqrt()


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _largest(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask == 0, torch.finfo(states.dtype).min).amax(dim=1)


# Named as sentence-transformers names them. States and mask of a batch padded on the right, to a vector a text.
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _first,
    "max": _largest,
    "mean_sqrt_len": _mean_sqrt_len,
}


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How the states of a text's tokens become its vector: by `kind`, then to length one where it `is_normalized`."""

    kind: str = "mean"
    is_normalized: bool = False

    def __post_init__(self) -> None:
        if self.kind not in POOLINGS:
            raise ValueError(f"pooling is {self.kind!r}.{did_you_mean(self.kind, POOLINGS)}")

    def __call__(self, states: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors of a batch padded on the right."""
        vectors = POOLINGS[self.kind](states, attention_mask[:, :, None].to(states.dtype))
        return nn.functional.normalize(vectors, dim=-1) if self.is_normalized else vectors


class EmbeddingRunner(Protocol):
    """What turns token ids into vectors: torch or a graph."""

    @property
    def device(self) -> torch.device: ...

    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors of a batch padded on the right."""
        ...


class SentenceEncoder(nn.Module):
    """A transformer and its pooling, as one module and as an `EmbeddingRunner`."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.model.device

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors of a batch padded on the right."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.pooling(states, attention_mask)

    @torch.inference_mode()
    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return the vectors without gradient."""
        return self(input_ids, attention_mask)


def length_batches(texts: Sequence[Sequence[int]], tokens_per_batch: int = TOKENS_PER_BATCH) -> list[list[int]]:
    """Return the indices of texts in batches of about equal lengths. So little of a batch is padding.

    The longest come first, so that a machine without room for them says so at once.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    batches: list[list[int]] = []
    for index in order:
        width = len(texts[batches[-1][0]]) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def encoded(
    runner: EmbeddingRunner,
    texts: Sequence[Sequence[int]],
    tokens_per_batch: int = TOKENS_PER_BATCH,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Float[Tensor, "N D"]:
    """Return the vectors of texts given as token ids, in their order, in float32 on the CPU. Raises ValueError for a text without tokens."""
    vectors: Tensor | None = None
    for batch, made in _made(runner, texts, tokens_per_batch):
        if vectors is None:
            vectors = torch.zeros(len(texts), made.shape[1])
        vectors[batch] = made
        on_batch(len(batch))
    assert vectors is not None, "there are texts"
    return vectors


def token_rows(
    runner: EmbeddingRunner,
    texts: Sequence[Sequence[int]],
    tokens_per_batch: int = TOKENS_PER_BATCH,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[Float[Tensor, "T C"]]:
    """Return what a runner makes of each token of texts, as `encoded` does of each text."""
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for batch, made in _made(runner, texts, tokens_per_batch):
        for position, index in enumerate(batch):
            rows[index] = made[position, : len(texts[index])].clone()
        on_batch(len(batch))
    return rows


def _made(
    runner: EmbeddingRunner, texts: Sequence[Sequence[int]], tokens_per_batch: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield batches of texts, by index, with what a runner makes of them. Raises ValueError for a text without tokens."""
    if empty := [index for index, ids in enumerate(texts) if not ids]:
        raise ValueError(f"text {empty[0]} has no tokens; accepted: texts with one at least")
    for batch in length_batches(texts, tokens_per_batch):
        yield batch, runner.embed(*pad_right([texts[index] for index in batch], runner.device)).float().cpu()
