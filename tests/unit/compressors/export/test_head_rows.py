"""The order of query and key rows: scores under the other rotation are the same, and nothing is lost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attar.compressors.export.head_rows import in_halves, interleaved

HEADS, SIZE, WIDTH, POSITIONS = 3, 8, 5, 7


def angles() -> Tensor:
    return torch.arange(POSITIONS, dtype=torch.float64)[:, None] * 100 ** (-torch.arange(SIZE // 2) / (SIZE // 2))


def by_halves(heads: Tensor) -> Tensor:
    """Rotate as transformers does: element i with element i + d/2."""
    a, b = heads.chunk(2, dim=-1)
    cos, sin = angles().cos()[:, None], angles().sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def by_pairs(heads: Tensor) -> Tensor:
    """Rotate as ggml's `norm` does: element 2i with element 2i + 1."""
    a, b = heads[..., 0::2], heads[..., 1::2]
    cos, sin = angles().cos()[:, None], angles().sin()[:, None]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def scores(query: Tensor, key: Tensor, text: Tensor, rotate) -> Tensor:
    queries, keys = (rotate((text @ weight.T).view(POSITIONS, HEADS, SIZE)) for weight in (query, key))
    return torch.einsum("qhd,khd->hqk", queries, keys)


@pytest.fixture
def weights() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS * SIZE, WIDTH), (HEADS * SIZE, WIDTH), (POSITIONS, WIDTH))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def test_scores_under_the_other_rotation_are_the_same(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, text = weights
    expected = scores(query, key, text, by_halves)
    assert torch.allclose(scores(interleaved(query, HEADS), interleaved(key, HEADS), text, by_pairs), expected)
    # the red side: without the change the other rotation gives other scores
    assert not torch.allclose(scores(query, key, text, by_pairs), expected, atol=0.1)


def test_rows_come_back_to_the_bit(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    query = weights[0]
    assert torch.equal(in_halves(interleaved(query, HEADS), HEADS), query)
    bias = query[:, 0]
    assert torch.equal(in_halves(interleaved(bias, HEADS), HEADS), bias)
    assert interleaved(torch.arange(8), 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_head_of_an_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="9 rows are not 3 heads of an even size"):
        interleaved(torch.zeros(9, math.prod((2, 2))), 3)
