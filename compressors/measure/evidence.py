"""How far a figure is known, as a limit needs it. A bound at any error level, and how likely the figure is were the truth past a limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

NORMAL = NormalDist()
# Nothing is told more surely than this.
MIN_LEVEL = 1e-12
# Student's t with more degrees of freedom is the normal distribution to six digits.
MAX_DEGREES = 1000
NUM_HALVINGS = 50
# 0.72 / 0.8 is a hair below 0.9 in binary; nobody means to fail that
ROUNDING = 1e-9


@dataclass(frozen=True)
class Exact:
    """A figure that has no spread: parameters, bytes."""

    value: float
    num_units: int = 0
    unit: str = ""
    is_exact: bool = True

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the figure itself."""
        return self.value

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return 0 where the figure is within the limit, else 1."""
        slack = ROUNDING if is_upper else -ROUNDING
        return float(not is_within(self.value, limit + slack, is_upper=is_upper))

    def grown(self, factor: float) -> Exact:
        """Return the same: more of it tells nothing more."""
        return self


def is_within(value: float, limit: float, *, is_upper: bool) -> bool:
    """Say whether a value is on the good side of a limit, or on it."""
    return value <= limit if is_upper else value >= limit


def level_at_limit(bound: Callable[[float, bool], float], value: float, limit: float, *, is_upper: bool) -> float:
    """Return the one-sided level at which a bound comes to lie on the limit: the p-value against being within it.

    `bound(level, is_upper)` moves away from `value` as the level falls. Past 0.5 it is the other side's that is asked.
    """
    if not is_within(value, limit, is_upper=is_upper):
        return 1.0 - level_at_limit(bound, value, limit, is_upper=not is_upper)
    low, high = math.log(MIN_LEVEL), math.log(0.5)
    if is_within(bound(MIN_LEVEL, is_upper), limit, is_upper=is_upper):
        return MIN_LEVEL
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if is_within(bound(math.exp(middle), is_upper), limit, is_upper=is_upper):
            high = middle
        else:
            low = middle
    return math.exp(high)


def t_tail(t: float, degrees: int) -> float:
    """Return P(T > t) of Student's t with so many degrees of freedom. By finite sums, Abramowitz and Stegun 26.7.3 and 26.7.4."""
    if math.isinf(t) or t < 0:
        return float(t < 0) if math.isinf(t) else 1.0 - t_tail(-t, degrees)
    if degrees > MAX_DEGREES:
        return 1.0 - NORMAL.cdf(t)
    angle = math.atan(t / math.sqrt(degrees))
    cosine, is_odd = math.cos(angle), degrees % 2
    term, total = (cosine if is_odd else 1.0), 0.0
    for index in range(1, degrees // 2 + 1):
        total += term
        step = 2 * index if is_odd else 2 * index - 1
        term *= step / (step + 1) * cosine**2
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total
    return max(0.0, (1.0 - inside) / 2)


def t_quantile(level: float, degrees: int) -> float:
    """Return the t that is passed with probability `level`, at most 0.5."""
    if degrees < 1:
        return math.inf
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > level and high < 1e12:
        high *= 2
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > level else (low, middle)
    return high
