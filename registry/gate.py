"""Decide whether a candidate may become champion: measured numbers against the recipe's thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# 0.72 / 0.8 is a hair below 0.9 in binary; nobody means to fail that
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One threshold: what was measured, what was allowed, and whether it passed."""

    name: str
    measured: float
    limit: float
    is_lower_better: bool

    @property
    def has_passed(self) -> bool:
        """A number that is not a number passes nothing."""
        if self.is_lower_better:
            return self.measured <= self.limit + ROUNDING
        return self.measured >= self.limit - ROUNDING

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        return {**asdict(self), "has_passed": self.has_passed}

    def __str__(self) -> str:
        sign, verdict = ("<=" if self.is_lower_better else ">="), ("passed" if self.has_passed else "failed")
        return f"{self.name} {self.measured:.4g} {sign} {self.limit:.4g} {verdict}"


# threshold name -> (metric, is the limit an upper one); every threshold is on candidate divided by baseline
THRESHOLDS = {
    "min_accuracy_retention": ("accuracy", False),
    "max_perplexity_ratio": ("perplexity", True),
    "max_decode_latency_ratio": ("decode_seconds_per_token", True),
    "max_prefill_latency_ratio": ("prefill_seconds", True),
    "max_size_ratio": ("num_parameters", True),
}


def run_gate(
    thresholds: Mapping[str, float], candidate: Mapping[str, float], baseline: Mapping[str, float]
) -> list[Check]:
    """Return one check a threshold, each on candidate / baseline. Raises ValueError when a number was not measured."""
    checks = []
    for name, limit in thresholds.items():
        metric, is_lower_better = THRESHOLDS[name]
        for side, numbers in (("candidate", candidate), ("baseline", baseline)):
            if metric not in numbers:
                raise ValueError(f"gate.{name} needs {metric}, which the {side}'s evaluation did not measure")
        ratio = candidate[metric] / baseline[metric] if baseline[metric] else float("nan")
        checks.append(Check(f"{metric}_ratio", ratio, limit, is_lower_better))
    return checks
