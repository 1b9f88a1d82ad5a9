"""Whether vectors order texts rightly. Rank correlation with graded pairs, and where the right text of a corpus stands, with 95% intervals.

And how alike features of examples are to what is known of these: their classes, or which two texts are a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.measure.closeness import Estimate

NUM_RESAMPLES = 1000
# Queries that are compared with the whole corpus at once.
QUERIES_AT_ONCE = 256
# One side of a comparison.
Numbers = Sequence[float] | np.ndarray
# How deep nDCG and the figures of a corpus look.
DEPTH = 10


def cosines(first: Float[Tensor, "N D"], other: Float[Tensor, "N D"]) -> list[float]:
    """Return the cosine of each pair of vectors."""
    return nn.functional.cosine_similarity(first, other, dim=-1).tolist()


def spearman(values: Numbers, scores: Numbers) -> float:
    """Return the rank correlation, ties at their mean rank; not a number where either side is all alike."""
    return _correlation(mean_ranks(np.asarray(values, float)), mean_ranks(np.asarray(scores, float)))


def spearman_estimate(sets: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Estimate:
    """Return the mean rank correlation of several sets of (values, scores), each counted alike. Its pairs are drawn anew for the interval."""
    value = float(np.mean([spearman(*some) for some in sets]))
    draws = _draws([[values, scores] for values, scores in sets], seed)
    return Estimate(value, *_ends(np.mean([[spearman(*drawn) for drawn in draw] for draw in draws], axis=1)))


def spearman_ratio(
    candidate: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    scores: Sequence[Sequence[float]],
    seed: int = 0,
) -> Estimate:
    """Return the candidate's mean rank correlation / the baseline's, on the same pairs, which are drawn anew together."""

    def ratio(sets: Sequence[Sequence[np.ndarray]]) -> float:
        above, below = (np.mean([spearman(some[side], some[2]) for some in sets]) for side in (0, 1))  # type: ignore[arg-type]
        return float(above / below) if below else float("nan")

    sets = [list(some) for some in zip(candidate, baseline, scores, strict=True)]
    draws = [ratio(draw) for draw in _draws(sets, seed)]
    return Estimate(ratio([[np.asarray(column, float) for column in some] for some in sets]), *_ends(np.asarray(draws)))


@dataclass(frozen=True)
class Ranked:
    """Where a query's right texts stand in the corpus, from 1, the best first; and how many there are."""

    ranks: tuple[int, ...]

    @property
    def reciprocal(self) -> float:
        """1 / rank of the first right text."""
        return 1.0 / self.ranks[0]

    @property
    def ndcg(self) -> float:
        """Discounted gain of the first `DEPTH` texts, as a share of the best that there could be. https://doi.org/10.1145/582415.582418"""
        gain = sum(1.0 / np.log2(1.0 + rank) for rank in self.ranks if rank <= DEPTH)
        best = sum(1.0 / np.log2(2.0 + index) for index in range(min(len(self.ranks), DEPTH)))
        return float(gain / best)

    def recall(self, depth: int) -> float:
        """Share of the right texts among the first `depth`."""
        return sum(rank <= depth for rank in self.ranks) / len(self.ranks)


def ranked(queries: Float[Tensor, "M D"], corpus: Float[Tensor, "N D"], positives: Sequence[Set[int]]) -> list[Ranked]:
    """Return where each query's right texts stand by cosine. A text that is as near as a right one stands before it."""
    queries, corpus = nn.functional.normalize(queries, dim=-1), nn.functional.normalize(corpus, dim=-1)
    rankings: list[Ranked] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        similarity = queries[start : start + QUERIES_AT_ONCE] @ corpus.T
        for row, right in zip(similarity, positives[start:], strict=False):
            own = row[sorted(right)]
            wrong = torch.ones(len(row), dtype=torch.bool)
            wrong[sorted(right)] = False
            before = [int((row[wrong] >= value).sum()) for value in own]
            rankings.append(Ranked(tuple(count + index + 1 for index, count in enumerate(sorted(before)))))
    return rankings


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def _correlation(first: np.ndarray, other: np.ndarray) -> float:
    first, other = first - first.mean(), other - other.mean()
    scale = np.sqrt((first**2).sum() * (other**2).sum())
    return float((first * other).sum() / scale) if scale else float("nan")


def _draws(sets: Sequence[Sequence[Sequence[float]]], seed: int) -> list[list[list[np.ndarray]]]:
    """Return the sets with their rows drawn anew, so many times; the columns of a row stay together."""
    generator = np.random.default_rng(seed)
    columns = [[np.asarray(column, float) for column in some] for some in sets]
    draws = []
    for _ in range(NUM_RESAMPLES):
        rows = [generator.integers(0, len(some[0]), len(some[0])) for some in columns]
        draws.append([[column[chosen] for column in some] for some, chosen in zip(columns, rows, strict=True)])
    return draws


def _ends(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return float(low), float(high)


def cka(features: Float[Tensor, "N D"], annotations: Float[Tensor, "N N"]) -> float:
    """Return the linear centered kernel alignment of features with annotations, in [-1, 1]; 0 where either is all alike.

    https://arxiv.org/abs/1905.00414
    """
    states = features.double() - features.double().mean(dim=0)
    kernel = states @ states.T
    known = annotations.double()
    known = known - known.mean(dim=0) - known.mean(dim=1, keepdim=True) + known.mean()
    sizes = kernel.norm() * known.norm()
    return float((kernel * known).sum() / sizes) if sizes > 0 else 0.0


def parc(features: Float[Tensor, "N D"], annotations: Float[Tensor, "N N"]) -> float:
    """Return the rank correlation of pairs' distances in features with those in annotations. In [-1, 1]; 0 where either are all alike.

    https://arxiv.org/abs/2111.06977
    """
    centered = features.double() - features.double().mean(dim=1, keepdim=True)
    unit = nn.functional.normalize(centered, dim=1)
    rows, columns = torch.tril_indices(len(unit), len(unit), offset=-1)
    distances, known = 1.0 - (unit @ unit.T)[rows, columns], 1.0 - annotations.double()[rows, columns]
    value = spearman(distances.numpy(), known.numpy())
    return 0.0 if math.isnan(value) else value


# Of features and annotations, by name.
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], float]] = {"cka": cka, "parc": parc}
