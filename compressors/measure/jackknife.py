"""Predict a figure from past ones with an interval that the past itself calibrates: ridge regression under the jackknife+.

Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+", https://arxiv.org/abs/1905.02928: whatever the regression,
an interval at error `level` covers at least 1 - 2 * level of exchangeable cases, and mostly about 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attar.compressors.measure.closeness import Estimate

RIDGE = 0.1


@dataclass(frozen=True, eq=False)
class Regressor:
    """Ridge regression of `targets` on standardized `features` (a row a case), refitted without each case in turn."""

    features: np.ndarray
    targets: np.ndarray

    def predict(self, features: np.ndarray, level: float = 0.1) -> Estimate:
        """Return the prediction for a new case with its jackknife+ interval. Infinite ends where there are too few cases for the level."""
        count = len(self.targets)
        without = [self._fit(np.arange(count) != index) for index in range(count)]
        residuals = np.array(
            [abs(self.targets[index] - fit(self.features[index])) for index, fit in enumerate(without)]
        )
        predicted = np.array([fit(features) for fit in without])
        rank = math.ceil((1.0 - level) * (count + 1))
        value = self._fit(np.ones(count, bool))(features)
        if rank > count:
            return Estimate(value, -math.inf, math.inf)
        low = -np.sort(residuals - predicted)[rank - 1]
        high = np.sort(predicted + residuals)[rank - 1]
        return Estimate(value, float(low), float(high))

    def _fit(self, used: np.ndarray) -> Callable[[np.ndarray], float]:
        features, targets = self.features[used], self.targets[used]
        middle, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        design = (features - middle) / spread
        weights = np.linalg.solve(
            design.T @ design + RIDGE * np.eye(design.shape[1]), design.T @ (targets - targets.mean())
        )
        return lambda new: float(targets.mean() + ((new - middle) / spread) @ weights)
