"""A ratio of times (or of memory) measured in turns, as evidence. Student's t on the logarithms of the rounds' ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compressors.measure.evidence import is_within, t_quantile, t_tail


@dataclass(frozen=True)
class PairedRounds:
    """Candidate / original of each round. The figure is their geometric mean, its spread that between the rounds.

    `growth`: so many times the rounds are thought of, alike in mean and spread.
    """

    ratios: tuple[float, ...]
    growth: float = 1.0
    unit: str = "rounds"
    is_exact: bool = False

    @staticmethod
    def of(candidate: Sequence[float], original: Sequence[float]) -> PairedRounds:
        """Return the evidence of rounds in which both had their turn."""
        return PairedRounds(tuple(first / second for first, second in zip(candidate, original, strict=True)))

    @property
    def value(self) -> float:
        """Geometric mean of the ratios."""
        return math.exp(float(np.log(self.ratios).mean()))

    @property
    def num_units(self) -> int:
        """Rounds."""
        return round(self.growth * len(self.ratios))

    @property
    def _error(self) -> float:
        """Standard error of the mean logarithm; infinite of a single round."""
        if len(self.ratios) < 2:
            return math.inf
        return float(np.log(self.ratios).std(ddof=1)) / math.sqrt(self.num_units)

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the bound that the true ratio passes with probability `level`, were the logarithms normal."""
        error = self._error
        reach = error * t_quantile(level, self.num_units - 1) if error else 0.0
        return self.value * math.exp(reach if is_upper else -reach) if math.isfinite(reach) else _far(is_upper)

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against the ratio being within the limit."""
        error = self._error
        if not error:
            return float(not is_within(self.value, limit, is_upper=is_upper))
        if math.isinf(error):
            return 1.0
        distance = (math.log(limit) - math.log(self.value)) / error
        return t_tail(distance if is_upper else -distance, self.num_units - 1)

    def grown(self, factor: float) -> PairedRounds:
        """Return what so many times the rounds would tell."""
        return replace(self, growth=factor * self.growth)


def _far(is_upper: bool) -> float:
    return math.inf if is_upper else 0.0
