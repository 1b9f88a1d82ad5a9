"""Attention as whole matrix products, for a CPU that multiplies bfloat16 matrices. torch's fused kernel reaches a fraction of their speed there."""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "matrix_products"
# Queries that are multiplied together, with those keys alone that one of them sees.
NUM_QUERIES = 128
# Beyond it the probabilities that a backward pass needs outgrow the model: 2 bytes x heads x tokens x tokens a block.
MAX_TOKENS = 1024

# queries from, to; keys from, to; which of those keys each query may not see
Span = tuple[int, int, int, int, Bool[Tensor, "b 1 q k"]]


def attention(
    module: nn.Module,
    query: Float[Tensor, "b h t d"],
    key: Float[Tensor, "b g t d"],
    value: Float[Tensor, "b g t d"],
    attention_mask: Bool[Tensor, "b 1 t t"] | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "b t h d"], None]:
    """Return what transformers' `sdpa` returns, the scores rounded to the queries' dtype before the softmax.

    Left to `sdpa`: single tokens behind a cache, long sequences, other dtypes and devices, dropout, and families that add something
    to the scores.
    """
    num_tokens = query.shape[2]
    is_plain = (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and 1 < num_tokens == key.shape[2] <= MAX_TOKENS
        and not dropout
        and options.get("position_bias") is None
        and options.get("softcap") is None
        and options.get("s_aux") is None
        and options.get("is_causal") is not False
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and (attention_mask is not None or getattr(module, "is_causal", True))
    )
    if not is_plain:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward  # there since the model is

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    spans = _SPANS.of(attention_mask, num_tokens)
    return _Products.apply(query, key, value, scale, spans).transpose(1, 2).contiguous(), None  # type: ignore[union-attr]


class _Products(torch.autograd.Function):
    """softmax(scale q k') v by spans; the probabilities are kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, spans: list[Span]) -> Tensor:
        parts, saved = [], []
        for first, last, left, right, hidden in spans:
            queries = _by_group(query[:, :, first:last], key.shape[1])
            scores = torch.matmul(queries, key[:, :, left:right].transpose(2, 3)).mul_(scale)
            rows = scores.unflatten(2, (-1, last - first))
            # the lowest number, not -inf: padding that sees nothing would be no number, and its gradient reach the keys
            rows.masked_fill_(hidden[:, :, None], torch.finfo(rows.dtype).min)
            shares = scores.softmax(dim=-1)
            parts.append(_by_head(torch.matmul(shares, value[:, :, left:right]), last - first))
            saved.append(shares)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.scale, ctx.spans = scale, spans
        return torch.cat(parts, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *saved = ctx.saved_tensors
        of_query, of_key, of_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for (first, last, left, right, _), shares in zip(ctx.spans, saved, strict=True):
            given = _by_group(outer[:, :, first:last], key.shape[1])
            of_value[:, :, left:right] += torch.matmul(shares.transpose(2, 3), given)
            of_shares = torch.matmul(given, value[:, :, left:right].transpose(2, 3))
            slopes = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(ctx.scale)
            of_query.append(_by_head(torch.matmul(slopes, key[:, :, left:right]), last - first))
            queries = _by_group(query[:, :, first:last], key.shape[1])
            of_key[:, :, left:right] += torch.matmul(slopes.transpose(2, 3), queries)
        return torch.cat(of_query, dim=2), of_key, of_value, None, None


def _by_group(heads: Float[Tensor, "b h q d"], num_groups: int) -> Float[Tensor, "b g hq d"]:
    """Return the queries of all heads that share a key head, one behind the other: no key is repeated."""
    return heads.unflatten(1, (num_groups, -1)).flatten(2, 3)


def _by_head(groups: Float[Tensor, "b g hq d"], num_queries: int) -> Float[Tensor, "b h q d"]:
    return groups.unflatten(2, (-1, num_queries)).flatten(1, 2)


class _Spans:
    """The spans of the mask of now: every block of a forward pass asks with the same one."""

    def __init__(self) -> None:
        self.mask: weakref.ref[Tensor] | None = None
        self.spans: list[Span] = []

    def of(self, mask: Bool[Tensor, "b 1 t t"] | None, num_tokens: int) -> list[Span]:
        if mask is None:
            return _causal_spans(num_tokens)
        if self.mask is None or self.mask() is not mask:
            self.mask, self.spans = weakref.ref(mask), _cut(mask)
        return self.spans


@lru_cache(maxsize=4)  # as of a mask: every block of a forward pass asks for the same ones
def _causal_spans(num_tokens: int) -> list[Span]:
    return _cut(torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool).tril())


def _cut(mask: Bool[Tensor, "b 1 t t"]) -> list[Span]:
    spans = []
    for first in range(0, mask.shape[2], NUM_QUERIES):
        rows = mask[:, :, first : first + NUM_QUERIES]
        seen = rows.any(dim=2).flatten(0, 1).any(dim=0).nonzero().flatten().tolist() or [0]
        left, right = seen[0], seen[-1] + 1
        spans.append((first, first + rows.shape[2], left, right, ~rows[..., left:right]))
    return spans


_SPANS = _Spans()


def attend_by_products(model: PreTrainedModel) -> None:
    """Let a model on a CPU that attends by `sdpa` do it by whole products, wherever it computes in bfloat16."""
    from transformers import AttentionInterface, AttentionMaskInterface  # three seconds that a plan need not wait for
    from transformers.masking_utils import sdpa_mask

    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
