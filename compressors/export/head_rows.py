"""Rows of query and key matrices in the order that a runtime's rotary embedding takes. Halves of a head here, pairs there."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor


def interleaved(weight: Shaped[Tensor, "R ..."], num_heads: int) -> Shaped[Tensor, "R ..."]:
    """Return the rows with those that turn together side by side.

    Transformers rotates row i of a head with row i + d/2, ggml's `norm` rotation row 2i with row 2i + 1: of d rows the new order is
    0, d/2, 1, d/2 + 1, ... Scores are the same, since queries and keys are reordered alike.
    """
    return _swapped(weight, num_heads, (num_heads, 2, -1))


def in_halves(weight: Shaped[Tensor, "R ..."], num_heads: int) -> Shaped[Tensor, "R ..."]:
    """Return the rows in transformers' order again: the inverse of `interleaved`."""
    return _swapped(weight, num_heads, (num_heads, -1, 2))


def _swapped(weight: Tensor, num_heads: int, parts: tuple[int, int, int]) -> Tensor:
    if weight.shape[0] % (2 * num_heads):
        raise ValueError(f"{weight.shape[0]} rows are not {num_heads} heads of an even size")
    return weight.reshape(*parts, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
