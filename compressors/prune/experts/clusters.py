"""Hierarchical clustering of a few hundred points by average linkage."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def average_linkage(distances: Float[Tensor, "N N"], num_clusters: int) -> list[list[int]]:
    """Return clusters of indices: the nearest two are joined until `num_clusters` are left.

    Two clusters are as far apart as their members are in the mean (UPGMA); of equal pairs the earlier is joined.
    """
    between = distances.double().clone().fill_diagonal_(torch.inf)
    clusters: list[list[int] | None] = [[index] for index in range(len(distances))]
    for _ in range(len(distances) - num_clusters):
        first, other = sorted(divmod(int(between.argmin()), len(distances)))
        own, joined = clusters[first], clusters[other]
        assert own is not None and joined is not None, "joined clusters are infinitely far"
        mean = (len(own) * between[first] + len(joined) * between[other]) / (len(own) + len(joined))
        between[first], between[:, first] = mean, mean
        between[first, first] = torch.inf
        between[other], between[:, other] = torch.inf, torch.inf
        clusters[first], clusters[other] = [*own, *joined], None
    return [sorted(members) for members in clusters if members is not None]
