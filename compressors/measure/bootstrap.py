"""Means over texts, ratios of shares, and quotients, as evidence. What drawing anew gives, or the posterior of who answers right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compressors.measure.closeness import resampled_ratios
from attar.compressors.measure.evidence import NORMAL, is_within, t_quantile, t_tail
from attar.compressors.measure.newcombe import Cells
from attar.compressors.measure.paired import drawn_retentions


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure and what it could as well have been: draws of a bootstrap, or of a posterior.

    A bootstrap of n texts is too narrow by sqrt((n - 1) / n), and by what Student's t has more than the normal distribution; its levels are
    expanded for both (Hesterberg, https://arxiv.org/abs/1411.5279, section 4.3). `degrees`: n - 1; 0: of a posterior, taken as it is.
    """

    value: float
    draws: np.ndarray
    num_units: int
    unit: str
    degrees: int = 0
    is_exact: bool = False

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the quantile of the draws that the true figure passes with probability `level`, about. Infinite where nothing can be drawn."""
        if not len(self.draws):
            return math.inf if is_upper else -math.inf
        if self.degrees:
            level = NORMAL.cdf(-math.sqrt((self.degrees + 1) / self.degrees) * t_quantile(level, self.degrees))
        return float(np.quantile(self.draws, 1.0 - level if is_upper else level))

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against the figure being within the limit: the share of draws past it, expanded like the bound."""
        if not len(self.draws):
            return 1.0
        within = self.draws <= limit if is_upper else self.draws >= limit
        share = (1 + int((~within).sum())) / (len(self.draws) + 1)
        if not self.degrees or share >= 1.0:
            return min(1.0, share)
        return t_tail(-NORMAL.inv_cdf(share) * math.sqrt(self.degrees / (self.degrees + 1)), self.degrees)

    def grown(self, factor: float) -> Drawn:
        """Return what so many times the texts would tell. The same figure, its draws closer by the root of the factor."""
        closer = self.value + (self.draws - self.value) / math.sqrt(factor)
        degrees = round(factor * (self.degrees + 1)) - 1 if self.degrees else 0
        return replace(self, draws=closer, num_units=round(factor * self.num_units), degrees=degrees)


def mean_over(
    sums: Sequence[float],
    counts: Sequence[float],
    unit: str,
    transform: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> Drawn:
    """Return sum / sum over texts (or pieces of one) as evidence, texts drawn anew in pairs; `transform` must rise."""
    value = np.asarray([np.sum(sums) / np.sum(counts)], float)
    draws = resampled_ratios(np.asarray(sums, float), np.asarray(counts, float)) if len(counts) > 1 else np.zeros(0)
    return Drawn(float(transform(value)[0]), transform(draws), len(counts), unit, max(0, len(counts) - 1))


@dataclass(frozen=True)
class PairedRetention:
    """Mean accuracy of a candidate / its original's on the same questions. By the posterior of the four cells of each task.

    The prior is Jeffreys', as for the intervals of tables.
    """

    tasks: tuple[Cells, ...]
    unit: str = "questions"
    is_exact: bool = False

    @property
    def value(self) -> float:
        """The ratio as measured; not a number where the original answered nothing right."""
        above = sum((cells.both + cells.candidate_only) / cells.count for cells in self.tasks)
        below = sum((cells.both + cells.original_only) / cells.count for cells in self.tasks)
        return above / below if below else math.nan

    @property
    def num_units(self) -> int:
        """Questions of all tasks."""
        return round(sum(cells.count for cells in self.tasks))

    def _drawn(self) -> Drawn:
        cells = [(task.both, task.candidate_only, task.original_only, task.neither) for task in self.tasks]
        return Drawn(self.value, drawn_retentions(cells), self.num_units, self.unit)

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the quantile of the posterior."""
        return self._drawn().bound(level, is_upper=is_upper)

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return how probable it is that the true ratio lies past the limit."""
        return self._drawn().p_value(limit, is_upper=is_upper)

    def grown(self, factor: float) -> PairedRetention:
        """Return what so many times the questions would tell, answered alike."""
        return PairedRetention(tuple(cells.grown(factor) for cells in self.tasks))


@dataclass(frozen=True)
class PairedQuotient:
    """x / y with the variances of both and their covariance. The bounds are where |x - r y| is z standard deviations of x - r y.

    https://doi.org/10.1111/j.2517-6161.1954.tb00159.x. An offset that the draws give both sides, as that of a Frechet distance of points
    drawn twice, is in none of it.
    """

    candidate: float
    original: float
    variances: tuple[float, float]
    covariance: float
    num_units: int
    unit: str = "images"
    is_exact: bool = False

    @staticmethod
    def of(
        values: Sequence[tuple[float, float]],
        draws: Sequence[tuple[Sequence[float], Sequence[float]]],
        num_units: int,
        unit: str = "images",
    ) -> PairedQuotient:
        """Return the evidence of means over seeds. Of each seed the two values, and both statistics of the same draws."""
        own, other = (np.mean([pair[side] for pair in values]) for side in (0, 1))
        spread = np.cov([np.mean([pair[side] for pair in draws], axis=0) for side in (0, 1)])
        return PairedQuotient(
            float(own), float(other), (float(spread[0, 0]), float(spread[1, 1])), float(spread[0, 1]), num_units, unit
        )

    @property
    def value(self) -> float:
        """The quotient; no number where the original's is 0."""
        return self.candidate / self.original if self.original else math.nan

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the bound that the true quotient passes with probability `level`. Infinite or 0 where the original's is not told from 0."""
        square = NORMAL.inv_cdf(1.0 - level) ** 2
        first = self.original**2 - square * self.variances[1]
        if not self.original or first <= 0:
            return math.inf if is_upper else 0.0
        middle = self.candidate * self.original - square * self.covariance
        last = self.candidate**2 - square * self.variances[0]
        reach = math.sqrt(max(0.0, middle**2 - first * last))
        return max(0.0, (middle + (reach if is_upper else -reach)) / first)

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against the quotient being within the limit."""
        variance = self.variances[0] - 2.0 * limit * self.covariance + limit**2 * self.variances[1]
        distance = limit * self.original - self.candidate
        if variance <= 0.0:
            return float(not is_within(0.0, distance if is_upper else -distance, is_upper=True))
        return 1.0 - NORMAL.cdf((distance if is_upper else -distance) / math.sqrt(variance))

    def grown(self, factor: float) -> PairedQuotient:
        """Return what so many times the points would tell."""
        variances = (self.variances[0] / factor, self.variances[1] / factor)
        return replace(
            self,
            variances=variances,
            covariance=self.covariance / factor,
            num_units=round(factor * self.num_units),
        )
