"""How far made images are from real ones, by features of both: Frechet distance, precision and recall."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Neighbours whose distance is the size of a point's surroundings.
NUM_NEIGHBOURS = 3


def frechet_distance(first: Float[Tensor, "N D"], other: Float[Tensor, "M D"]) -> float:
    """Return |m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2) of two sets of features. 0 when mean and covariance are the same.

    https://arxiv.org/abs/1706.08500. Biased upward by few points: compare sets of one size. Raises ValueError for less than two points.
    """
    if min(len(first), len(other)) < 2:
        raise ValueError(f"{min(len(first), len(other))} images have no spread; accepted: 2 or more")
    first, other = first.double(), other.double()
    root = _square_root(first.T.cov())
    between = torch.linalg.eigvalsh(root @ other.T.cov() @ root).clamp(min=0.0).sqrt().sum()
    spread = first.T.cov().diagonal().sum() + other.T.cov().diagonal().sum() - 2.0 * between
    return max(0.0, float((first.mean(dim=0) - other.mean(dim=0)).square().sum() + spread))


def precision_and_recall(made: Float[Tensor, "N D"], real: Float[Tensor, "M D"]) -> tuple[float, float]:
    """Return (share of made points near a real one, share of real ones near a made one).

    A point's surroundings reach to its third neighbour of the same set. https://arxiv.org/abs/1904.06991
    """
    return float(_is_covered(made, real).float().mean()), float(_is_covered(real, made).float().mean())


def bootstrap_draws(
    statistics: Callable[[Int[Tensor, "N"]], Mapping[str, float]], labels: Int[Tensor, "N"], num_draws: int
) -> dict[str, list[float]]:
    """Return each statistic of draws of the points with replacement, always the same draws.

    Each point is drawn by one of its own class, since classes were chosen. Those of two models are pairs.
    """
    generator = torch.Generator().manual_seed(0)
    order, counts = labels.argsort(stable=True), labels.bincount()
    first, count = (counts.cumsum(0) - counts)[labels], counts[labels]
    draws = []
    for _ in range(num_draws):
        uniform = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        draws.append(statistics(order[first + (uniform * count).long()]))
    return {name: [draw[name] for draw in draws] for name in draws[0]}


def _square_root(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0.0).sqrt()) @ vectors.T


def _is_covered(points: Float[Tensor, "N D"], by: Float[Tensor, "M D"]) -> Bool[Tensor, "N"]:
    # the nearest of the same set is the point itself
    radius = torch.cdist(by, by).kthvalue(min(NUM_NEIGHBOURS + 1, len(by)), dim=1).values
    return (torch.cdist(points, by) <= radius[None]).any(dim=1)
