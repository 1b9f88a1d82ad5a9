"""Means over texts, and ratios of shares, as evidence. What drawing the texts anew gives, or the posterior of who answers right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compressors.measure.closeness import resampled_ratios
from attar.compressors.measure.evidence import NORMAL, t_quantile, t_tail
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
