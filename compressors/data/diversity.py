"""Choose few texts that cover many: farthest-point selection over hashed words."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.data.ngrams import ngrams, words


def text_features(texts: Sequence[str], num_features: int = 1024) -> Float[Tensor, "N F"]:
    """Return a unit vector a text. Its words and word pairs, weighted by log(1 + N / texts that hold one), hashed with a sign.

    Feature hashing: https://arxiv.org/abs/0902.2206. The hash is CRC-32, the same in every process.
    """
    counts = [Counter([*words(text), *ngrams(words(text), 2)]) for text in texts]
    num_holders = Counter(term for term_counts in counts for term in term_counts)
    columns: list[int] = []
    weights: list[float] = []
    for index, term_counts in enumerate(counts):
        for term, count in term_counts.items():
            code = zlib.crc32(term.encode())
            weight = (1 + math.log(count)) * math.log1p(len(texts) / num_holders[term])
            columns.append(index * num_features + (code >> 1) % num_features)
            weights.append(weight if code & 1 else -weight)
    features = torch.zeros(len(texts) * num_features)
    features.index_add_(0, torch.tensor(columns, dtype=torch.long), torch.tensor(weights))
    features = features.view(len(texts), num_features)
    return torch.nn.functional.normalize(features, dim=-1)


def farthest_points(features: Float[Tensor, "N F"], num_points: int) -> list[int]:
    """Return the indices of `num_points` vectors, in the order chosen: the first, then always the one farthest from all chosen.

    Distance is 1 - cosine, which orders unit vectors as Euclidean distance does; ties go to the lower index. The farthest vector left
    out is at most twice as far, in Euclidean distance, as under the best choice: https://doi.org/10.1016/0304-3975(85)90224-5
    """
    # rounding may not decide between equals: the first of the largest
    return farthest_first(lambda index: 1.0 - features @ features[index], len(features), num_points, tolerance=1e-6)


def farthest_first(
    distances: Callable[[int], Float[Tensor, "N"]],
    num_items: int,
    num_chosen: int,
    *,
    first: int = 0,
    takes_copies: bool = True,
    tolerance: float = 0.0,
) -> list[int]:
    """Return the indices of at most `num_chosen` items, in the order chosen. `first`, then always the one farthest from all chosen.

    `distances`: of all items from one. Ties, within the tolerance, go to the lower index. Without `takes_copies` it ends where all that
    are left lie on one that is chosen.
    """
    chosen: list[int] = []
    nearest = torch.full((num_items,), math.inf, dtype=torch.float64)
    for _ in range(min(num_chosen, num_items)):
        index = int((nearest >= nearest.max() - tolerance).nonzero()[0]) if chosen else first
        if not takes_copies and nearest[index] <= 0.0:
            break
        chosen.append(index)
        nearest = torch.minimum(nearest, distances(index).to(nearest))
        nearest[chosen] = -math.inf
    return chosen
