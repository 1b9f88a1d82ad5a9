"""Attention over rows of different lengths that lie end to end. Products of weights see no padding; attention pads short rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "ragged_rows"
# A row with more tokens attends alone, by spans of so many of them: what the first cannot see is not computed.
MAX_TOGETHER = 32
NUM_QUERIES = 128


@dataclass(frozen=True)
class Spans:
    """Which row and column each token of a pass belongs to, and what it sees."""

    rows: list[int]
    counts: list[int]
    lengths: list[int]
    device: torch.device

    @property
    def are_short(self) -> bool:
        """Whether all rows attend together, those with fewer tokens padded: so they do where a pass has few of each."""
        return max(self.counts) <= MAX_TOGETHER

    @cached_property
    def token_rows(self) -> Int[Tensor, "N"]:
        """The row of each token."""
        return torch.tensor(self.rows).repeat_interleave(torch.tensor(self.counts)).to(self.device)

    @cached_property
    def columns(self) -> Int[Tensor, "N"]:
        """The column of each token, which is its position."""
        pairs = zip(self.lengths, self.counts, strict=True)
        return torch.cat([torch.arange(length, length + count) for length, count in pairs]).to(self.device)

    @cached_property
    def num_columns(self) -> int:
        """How many columns a token may see at most."""
        return max(length + count for length, count in zip(self.lengths, self.counts, strict=True))

    @cached_property
    def padded(self) -> tuple[Int[Tensor, "M"], Int[Tensor, "N"]]:
        """Where each cell of the padded rows is found among the tokens, and each token among those cells."""
        width, num_rows = max(self.counts), max(self.rows) + 1
        taken = torch.zeros(num_rows, width, dtype=torch.long)
        cells, start = [], 0
        for row, count in zip(self.rows, self.counts, strict=True):
            taken[row, :count] = torch.arange(start, start + count)
            cells.append(row * width + torch.arange(count))
            start += count
        return taken.flatten().to(self.device), torch.cat(cells).to(self.device)

    @cached_property
    def seen(self) -> Bool[Tensor, "B 1 1 T S"]:
        """Which columns each cell of the padded rows sees; padding sees what its row's first token does."""
        taken, _ = self.padded
        lasts = self.columns[taken].view(max(self.rows) + 1, 1, 1, -1, 1)
        return torch.arange(self.num_columns, device=self.device) <= lasts


def attention(
    module: nn.Module,
    query: Float[Tensor, "1 H N D"],
    key: Float[Tensor, "R G C D"],
    value: Float[Tensor, "R G C E"],
    attention_mask: None,
    scaling: float | None = None,
    spans: Spans | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "1 N H E"], None]:
    """Return softmax(scale q k') v, each token over its own row's columns up to its own."""
    assert spans is not None, "called by these slots alone"
    queries = query[0].unflatten(0, (key.shape[1], -1))  # G groups of heads that share keys: no key is repeated
    if spans.are_short:
        return _together(queries, key, value, scaling, spans), None
    parts, start = [], 0
    for row, count, length in zip(spans.rows, spans.counts, spans.lengths, strict=True):
        for first in range(0, count, NUM_QUERIES):
            own = queries[:, :, start + first : start + min(first + NUM_QUERIES, count)]
            parts.append(_alone(own, key[row], value[row], scaling, length + first))
        start += count
    return torch.cat(parts)[None], None


def _together(
    queries: Float[Tensor, "G h N D"],
    key: Float[Tensor, "R G C D"],
    value: Float[Tensor, "R G C E"],
    scale: float | None,
    spans: Spans,
) -> Float[Tensor, "1 N H E"]:
    taken, cells = spans.padded
    num_rows, num_heads = max(spans.rows) + 1, queries.shape[1]
    padded = queries[:, :, taken].unflatten(2, (num_rows, -1)).permute(2, 0, 1, 3, 4)
    seen = spans.seen.expand(-1, 1, num_heads, -1, -1).flatten(2, 3)
    cut = slice(0, spans.num_columns)
    given = scaled_dot_product_attention(
        padded.flatten(2, 3), key[:num_rows, :, cut], value[:num_rows, :, cut], attn_mask=seen, scale=scale
    )
    by_cell = given.unflatten(2, (num_heads, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    return by_cell[cells].flatten(1, 2)[None]


def _alone(
    queries: Float[Tensor, "G h T D"],
    key: Float[Tensor, "G C D"],
    value: Float[Tensor, "G C E"],
    scale: float | None,
    length: int,
) -> Float[Tensor, "T H E"]:
    num_heads, num_tokens = queries.shape[1:3]
    end = length + num_tokens
    seen = torch.ones(num_tokens, end, dtype=torch.bool, device=queries.device).tril(length).repeat(num_heads, 1)
    attend = _by_products if queries.dtype == torch.bfloat16 and queries.device.type == "cpu" else _fused
    given = attend(queries.flatten(1, 2)[None], key[None, :, :end], value[None, :, :end], seen, scale)
    return given[0].unflatten(1, (num_heads, -1)).permute(2, 0, 1, 3).flatten(1, 2)


def _fused(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


def _by_products(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float | None) -> Tensor:
    """Return the same by whole products. A CPU does them in bfloat16 at several times the speed of the fused kernel."""
    scores = torch.matmul(query, key.transpose(2, 3)).mul_(query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.matmul(scores.masked_fill_(~seen, torch.finfo(scores.dtype).min).softmax(dim=-1), value)


AttentionInterface.register(NAME, attention)


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend row by row. No mask is registered beside: transformers then makes none."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
