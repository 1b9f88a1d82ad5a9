"""95% intervals of a share of questions. Ratios of two shares are over the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attar.compressors.measure.closeness import Estimate

Z_95 = 1.959963984540054
NUM_DRAWS = 20_000
# Jeffreys' prior, half a question in each cell: with few questions a resampling of them would know too much (of 3 in 3 right: 1 to 1).
PRIOR = 0.5


def share(right: Sequence[float]) -> Estimate:
    """Return the share of ones with Wilson's interval, https://doi.org/10.1080/01621459.1927.10502953; not a number of no questions."""
    count = len(right)
    if not count:
        return Estimate(math.nan, math.nan, math.nan)
    value = sum(right) / count
    middle, width = (
        value + Z_95**2 / (2 * count),
        Z_95 * math.sqrt(value * (1 - value) / count + (Z_95 / (2 * count)) ** 2),
    )
    scale = 1 + Z_95**2 / count
    return Estimate(value, max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale))


def mean_share(tasks: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean of the tasks' shares, each task counted alike. The interval adds the squares of theirs (MOVER, Zou and Donner)."""
    shares = [share(right) for right in tasks]
    if not shares:
        return Estimate(math.nan, math.nan, math.nan)
    count, value = len(shares), sum(share.value for share in shares) / len(shares)
    below = math.sqrt(sum((share.value - share.low) ** 2 for share in shares)) / count
    above = math.sqrt(sum((share.high - share.value) ** 2 for share in shares)) / count
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def paired_retention(tasks: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Estimate:
    """Return mean share of the candidate / mean share of the baseline, both asked the same questions, task by task.

    A question is in one of four cells: right in both, in one, in the other, in none. Shares of the cells are drawn from their posterior
    under Jeffreys' prior, which is Dirichlet; the interval holds the middle 95% of the ratios that they make.
    """
    cells = [_cells(candidate, baseline) for candidate, baseline in tasks]
    reference = sum(float(np.mean(baseline)) for _, baseline in tasks)
    value = sum(float(np.mean(candidate)) for candidate, _ in tasks) / reference if reference else math.nan
    low, high = np.quantile(drawn_retentions(cells, seed), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def drawn_retentions(tasks: Sequence[Sequence[float]], seed: int = 0) -> np.ndarray:
    """Return draws of the retention from the posterior of each task's cells. Right in both, in the candidate alone, in the other alone, in none."""
    generator = np.random.default_rng(seed)
    above, below = np.zeros(NUM_DRAWS), np.zeros(NUM_DRAWS)
    for cells in tasks:
        drawn = generator.dirichlet(np.asarray(cells, float) + PRIOR, NUM_DRAWS)
        above += drawn[:, 0] + drawn[:, 1]
        below += drawn[:, 0] + drawn[:, 2]
    return above / below


def _cells(candidate: Sequence[float], baseline: Sequence[float]) -> list[int]:
    first, second = np.asarray(candidate) > 0.5, np.asarray(baseline) > 0.5
    return [int(cell.sum()) for cell in (first & second, first & ~second, ~first & second, ~first & ~second)]
