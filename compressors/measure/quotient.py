"""The quotient of two statistics that are known by draws of the same points, as evidence. Fieller's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compressors.measure.evidence import NORMAL, is_within


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
        """Return the bound that the true quotient passes with probability `level`; infinite or 0 where the original's is not told from 0."""
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
