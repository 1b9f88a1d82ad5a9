"""The drop in accuracy on the same questions. Newcombe's interval of a paired difference, and McNemar's exact test against no drop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attar.compressors.measure.evidence import NORMAL, level_at_limit


@dataclass(frozen=True)
class Cells:
    """Questions of a task by who answered them right, in numbers that need not be whole."""

    both: float
    original_only: float
    candidate_only: float
    neither: float

    @staticmethod
    def of(candidate: Sequence[float], original: Sequence[float]) -> Cells:
        """Return the cells of answers to the same questions, 1 where right."""
        pairs = [(first > 0.5, second > 0.5) for first, second in zip(candidate, original, strict=True)]
        counts = [pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False))]
        return Cells(*map(float, counts))

    @property
    def count(self) -> float:
        """All questions."""
        return self.both + self.original_only + self.candidate_only + self.neither

    @property
    def drop(self) -> float:
        """Accuracy of the original minus the candidate's; not a number of no questions."""
        return (self.original_only - self.candidate_only) / self.count if self.count else math.nan

    def grown(self, factor: float) -> Cells:
        """Return the cells of so many times the questions, answered alike."""
        return Cells(*(factor * cell for cell in (self.both, self.original_only, self.candidate_only, self.neither)))

    def distance(self, z: float, *, is_upper: bool) -> float:
        """Return how far the bound of the drop lies from it: method 10 of Newcombe (1998).

        Wilson's bounds of both shares, held together by the correlation of the answers. Improved confidence intervals for the difference
        between binomial proportions based on paired data, https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22%3C2635::AID-SIM954%3E3.0.CO;2-C
        """
        original, candidate = (self.both + self.original_only, self.both + self.candidate_only)
        first = _wilson_distance(original / self.count, self.count, z, is_upper=is_upper)
        second = _wilson_distance(candidate / self.count, self.count, z, is_upper=not is_upper)
        return math.sqrt(max(0.0, first**2 - 2 * self.correlation * first * second + second**2))

    @property
    def correlation(self) -> float:
        """Newcombe's phi, continuity-corrected where it is positive; 0 where a margin is empty."""
        margins = [
            self.both + self.original_only,
            self.candidate_only + self.neither,
            self.both + self.candidate_only,
            self.original_only + self.neither,
        ]
        if not all(margins):
            return 0.0
        product = self.both * self.neither - self.original_only * self.candidate_only
        if product > 0:
            product = max(product - self.count / 2, 0.0)
        return product / math.sqrt(math.prod(margins))


@dataclass(frozen=True)
class PairedDrop:
    """Mean over tasks of the accuracy that a candidate lost against its original, in [-1, 1]; positive is worse.

    Of several tasks the squares of the distances are added (MOVER, Zou and Donner, https://doi.org/10.1002/sim.3095).
    """

    tasks: tuple[Cells, ...]
    unit: str = "questions"
    is_exact: bool = False

    @property
    def value(self) -> float:
        """The mean drop."""
        return sum(cells.drop for cells in self.tasks) / len(self.tasks)

    @property
    def num_units(self) -> int:
        """Questions of all tasks."""
        return round(sum(cells.count for cells in self.tasks))

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the bound that the true drop passes with probability `level` at most, about."""
        z = NORMAL.inv_cdf(1.0 - level)
        squares = sum(cells.distance(z, is_upper=is_upper) ** 2 for cells in self.tasks)
        distance = math.sqrt(squares) / len(self.tasks)
        return min(1.0, self.value + distance) if is_upper else max(-1.0, self.value - distance)

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against the drop being within the limit. Exact (McNemar) for one task and a limit of no drop."""
        if limit == 0.0 and len(self.tasks) == 1:
            lost, won = round(self.tasks[0].original_only), round(self.tasks[0].candidate_only)
            return binomial_tail(won if is_upper else lost, lost + won)
        return level_at_limit(
            lambda level, upper: self.bound(level, is_upper=upper), self.value, limit, is_upper=is_upper
        )

    def grown(self, factor: float) -> PairedDrop:
        """Return what so many times the questions would tell, answered alike."""
        return PairedDrop(tuple(cells.grown(factor) for cells in self.tasks), self.unit)


def binomial_tail(num_heads: int, num_tosses: int) -> float:
    """Return the probability of at least so many heads of a fair coin."""
    return sum(math.comb(num_tosses, count) for count in range(num_heads, num_tosses + 1)) / 2**num_tosses


def _wilson_distance(share: float, count: float, z: float, *, is_upper: bool) -> float:
    """Return how far Wilson's bound of a share lies from it, at z standard deviations."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (middle + width) - share if is_upper else share - (middle - width)
