"""Retention of a model's accuracy, task by task, with the uncertainty that few questions leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Two-sided 95% of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Retention:
    """Candidate accuracy / baseline accuracy on one task, and its 95% interval; higher is better, 1 is unchanged."""

    task: str
    value: float
    low: float
    high: float
    num_rows: int


def retention_rows(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Retention]:
    """Return one row a task that both evaluations measured and the baseline solved at least once.

    value = a / b; interval exp(ln(a / b) -+ z sqrt((1 - a) / (n a) + (1 - b) / (n b))), Katz's for a ratio of two binomial
    shares, https://doi.org/10.2307/2530610. It takes the two as independent: on the same questions they are not, and the
    interval is too wide rather than too narrow. `compare` measures in pairs. With a = 0 the upper end is that of 3 / n.
    """
    rows = []
    for task, share in baseline["tasks"].items():
        num_rows = int(candidate.get("num_rows", {}).get(task, 0))
        if task not in candidate["tasks"] or not share or not num_rows:
            continue
        value = candidate["tasks"][task] / share
        low, high = _interval(candidate["tasks"][task], share, num_rows)
        rows.append(Retention(task, value, low, high, num_rows))
    return rows


def _interval(share: float, baseline: float, num_rows: int) -> tuple[float, float]:
    if share == 0.0:  # the rule of three: seen in none of n, the share is below 3 / n
        return 0.0, min(1.0, 3.0 / num_rows) / baseline
    spread = Z_95 * math.sqrt((1.0 - share) / (num_rows * share) + (1.0 - baseline) / (num_rows * baseline))
    ratio = share / baseline
    return ratio * math.exp(-spread), ratio * math.exp(spread)
