"""Evidence that holds whenever it is read. The capital of someone who bets, question after question, against the claim being false.

Who bets on a game whose mean is at most zero has, at no time, more than `1 / level` times what he began with, but with probability `level`
(Ville). Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", https://arxiv.org/abs/2010.09686.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compressors.measure.evidence import NUM_HALVINGS

# The bets begin as if so many steps of a model that lost nothing had been seen, and so many of a task where an answer in five flips. The
# first is large: who bets for a model that is clearly within the limit needs fewest questions for it.
MEAN_STEPS = 100.0
FLIP_STEPS = 20.0
PRIOR_FLIPS = 0.2
# Accuracy of the original that the first bet on a retention is made for; only the power depends on it, never the level.
PRIOR_ACCURACY = 0.5
# The most that is staked of what could be lost at once.
MAX_STAKE = 0.75
MIN_LOSS = 1e-6
# More than this a float does not hold, and no level asks for.
MAX_LOG_CAPITAL = 700.0
# A capital below this is given up: of a model as good as its original about one night in ten ends so.
GIVE_UP = 0.1
# Retentions beyond this are not looked for.
MAX_RETENTION = 10.0


def capital(gains: np.ndarray, worst: float, expected: float) -> np.ndarray:
    """Return the capital after each step (last axis) of who began with 1.

    `gains` are at least `worst`, which is below zero; if the claim is false their mean is at most 0. Each stake comes from the steps before
    alone: mean / second moment, the stake that grows fastest to second order (aGRAPA), between 0 and MAX_STAKE. `expected`: the mean that
    the bets begin from.
    """
    num_steps = np.arange(gains.shape[-1])
    before = gains.cumsum(axis=-1) - gains
    squares = (gains**2).cumsum(axis=-1) - gains**2
    mean = (MEAN_STEPS * expected + before) / (MEAN_STEPS + num_steps)
    second = (FLIP_STEPS * (PRIOR_FLIPS + expected**2) + squares) / (FLIP_STEPS + num_steps)
    stake = np.clip(mean / np.maximum(second, MIN_LOSS), 0.0, MAX_STAKE / max(-worst, MIN_LOSS))
    return np.exp(np.minimum(np.log1p(stake * gains).cumsum(axis=-1), MAX_LOG_CAPITAL))


@dataclass(frozen=True, eq=False)
class Wagered:
    """Answers of a candidate and its original, 1 where right, in the random order in which questions were asked.

    The figure is the drop of accuracy (original - candidate), or with `is_ratio` the retention (candidate / original). Of several tasks each
    question's must have been drawn with equal chances, so that tasks count alike: the mean of a question is then the mean over tasks.
    """

    candidate: np.ndarray
    original: np.ndarray
    is_ratio: bool = False
    unit: str = "questions"
    is_exact: bool = False

    @staticmethod
    def of(candidate: Sequence[float], original: Sequence[float], *, is_ratio: bool) -> Wagered:
        """Return the evidence of answers to the same questions."""
        return Wagered(np.asarray(candidate, float), np.asarray(original, float), is_ratio)

    @property
    def value(self) -> float:
        """The drop or the retention so far. Nothing is lost as long as the original has no right answer to lose."""
        candidate, original = float(self.candidate.sum()), float(self.original.sum())
        if not self.is_ratio:
            return (original - candidate) / max(len(self.original), 1)
        return candidate / original if original else 1.0

    @property
    def num_units(self) -> int:
        """Questions."""
        return len(self.candidate)

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against being within the limit, whenever the asking stopped: 1 / the largest capital so far."""
        return min(1.0, 1.0 / float(self.capital(limit, is_upper=is_upper).max(initial=1.0)))

    def capital(self, limit: float, *, is_upper: bool) -> np.ndarray:
        """Return the capital after each step of who bets that the figure is within the limit."""
        gains, worst, expected = self._gains(limit, is_upper)
        return capital(gains, worst, expected)

    def is_hopeless(self, limit: float, *, is_upper: bool) -> bool:
        """Say whether the capital is all but gone, and nobody who bets on the contrary has gained. More questions will hardly decide."""
        within, past = (self.capital(limit, is_upper=side) for side in (is_upper, not is_upper))
        return bool(len(within)) and within[-1] < GIVE_UP and past[-1] < 1.0

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the end of the confidence sequence: the nearest limit that the capital rejects at `level`."""
        far = MAX_RETENTION if self.is_ratio and is_upper else 1.0 if is_upper else 0.0 if self.is_ratio else -1.0
        near = self.value
        if self.p_value(far, is_upper=is_upper) > level:
            return far
        for _ in range(NUM_HALVINGS // 2):
            middle = (near + far) / 2
            near, far = (near, middle) if self.p_value(middle, is_upper=is_upper) <= level else (middle, far)
        return far

    def grown(self, factor: float) -> Wagered:
        """Return what so many times the questions would tell, answered alike."""
        count = math.ceil(factor * len(self.candidate))
        return replace(self, candidate=np.resize(self.candidate, count), original=np.resize(self.original, count))

    def _gains(self, limit: float, is_upper: bool) -> tuple[np.ndarray, float, float]:
        """Return the game of a claim. What each step gains, the most it can lose, and the gain expected of a model that is clearly within.

        The drop is at most `limit`: gains limit - drop. The retention is at least `limit`: gains candidate - limit * original.
        """
        if self.is_ratio:
            sign, gains = (-1.0 if is_upper else 1.0), self.candidate - limit * self.original
            worst = -1.0 if is_upper else -limit
            return sign * gains, worst, abs(1.0 - limit) * PRIOR_ACCURACY
        drop = self.original - self.candidate
        if is_upper:
            return limit - drop, limit - 1.0, abs(limit)
        return drop - limit, -1.0 - limit, abs(limit)
