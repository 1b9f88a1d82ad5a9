"""The guidance adapters: what each block adds to its attention's output, given the scale's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BlockAdapter(Protocol):
    """Of one block: `prepare` once a scale, `apply` at every token. Zero at the start, so that step 0 is the base exactly.

    `apply` also takes what was prepared for one scale without its batch dim. `is_constant`: it adds the same to every token.
    """

    is_constant: ClassVar[bool]

    def prepare(self, features: Float[Tensor, "B R"], gain: Float[Tensor, "B"]) -> tuple[Tensor, ...]:
        """Return what depends on the scale alone, multiplied by `gain` so that gain 0 adds exactly nothing."""
        ...

    def apply(self, hidden: Float[Tensor, "B T D"], prepared: tuple[Tensor, ...]) -> Float[Tensor, "B #T D"]:
        """Return what is added to the attention's output, given what the attention reads."""
        ...


class AdapterMethod(Protocol):
    """A kind of adapter with its sizes; builds one for a block."""

    @property
    def rank(self) -> int:
        """Width of the scale's features."""
        ...

    def __call__(self, hidden_size: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class Cross:
    """Attention of the hidden state over `num_tokens` tokens that depend on the scale. https://arxiv.org/abs/2503.07274

    out = W_o softmax((W_q h)(W_k E)' / sqrt(r / heads)) (W_v E), E = LayerNorm(e_m + s(w)). The paper's tokens are its timestep and
    class; a language model has neither, so e_m are learned.
    """

    rank: int = 64
    num_tokens: int = 32
    num_heads: int = 4

    def __post_init__(self) -> None:
        if self.rank % self.num_heads:
            raise ValueError(f"rank {self.rank} is no multiple of num_heads {self.num_heads}")

    def __call__(self, hidden_size: int) -> nn.Module:
        return CrossAdapter(hidden_size, self.rank, self.num_tokens, self.num_heads)


@dataclass(frozen=True, kw_only=True)
class Offset:
    """A vector that depends on the scale alone: W_o LayerNorm(ReLU(W s(w))), the same for every token. https://arxiv.org/abs/2503.07274"""

    rank: int = 64

    def __call__(self, hidden_size: int) -> nn.Module:
        return OffsetAdapter(hidden_size, self.rank)


GUIDANCE_ADAPTERS: dict[str, type[AdapterMethod]] = {"cross": Cross, "offset": Offset}


class CrossAdapter(nn.Module):
    """See Cross. Queries and keys, and values and output, are multiplied into one matrix each: two matrix products a token."""

    is_constant: ClassVar[bool] = False

    def __init__(self, hidden_size: int, rank: int, num_tokens: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_tokens, self.head_dim = num_heads, num_tokens, rank // num_heads
        self.tokens = nn.Parameter(torch.randn(num_tokens, rank))
        self.norm = nn.LayerNorm(rank)
        self.query = nn.Linear(hidden_size, rank, bias=False)
        self.key = nn.Linear(rank, rank, bias=False)
        self.value = nn.Linear(rank, rank, bias=False)
        self.output = nn.Linear(rank, hidden_size, bias=False)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.output.weight)

    def prepare(self, features: Float[Tensor, "B R"], gain: Float[Tensor, "B"]) -> tuple[Tensor, ...]:
        entries = self.norm(self.tokens + features[:, None])
        heads = (len(features), self.num_tokens, self.num_heads, self.head_dim)
        keys, values = self.key(entries).view(heads), self.value(entries).view(heads)
        query = self.query.weight.view(self.num_heads, self.head_dim, -1)
        output = self.output.weight.view(-1, self.num_heads, self.head_dim)
        reading = torch.einsum("hrd,bmhr->bdhm", query, keys).flatten(2) * self.head_dim**-0.5
        writing = torch.einsum("dhr,bmhr->bhmd", output, values).flatten(1, 2)
        return reading, writing * gain[:, None, None]

    def apply(self, hidden: Float[Tensor, "B T D"], prepared: tuple[Tensor, ...]) -> Float[Tensor, "B T D"]:
        reading, writing = prepared
        scores = (hidden.to(reading.dtype) @ reading).unflatten(-1, (self.num_heads, self.num_tokens))
        return scores.softmax(dim=-1).flatten(-2).to(writing.dtype) @ writing


class OffsetAdapter(nn.Module):
    """See Offset."""

    is_constant: ClassVar[bool] = True

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.inner = nn.Linear(rank, rank)
        self.norm = nn.LayerNorm(rank)
        self.output = nn.Linear(rank, hidden_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def prepare(self, features: Float[Tensor, "B R"], gain: Float[Tensor, "B"]) -> tuple[Tensor, ...]:
        vector = self.output(self.norm(self.inner(features).relu()))
        return ((vector * gain[:, None])[:, None],)

    def apply(self, hidden: Float[Tensor, "B T D"], prepared: tuple[Tensor, ...]) -> Float[Tensor, "B 1 D"]:
        return prepared[0]
