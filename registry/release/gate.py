"""Decide whether a candidate may become champion: measured numbers against the recipe's thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# 0.72 / 0.8 is a hair below 0.9 in binary; nobody means to fail that
ROUNDING = 1e-9


@dataclass(frozen=True)
class Ratio:
    """Candidate / baseline as measured: its 95% interval where one can be told, and what it was measured on."""

    value: float
    low: float | None = None
    high: float | None = None
    measured_on: str = ""
    # why nothing can be decided by it; empty: it can
    undecided: str = ""


@dataclass(frozen=True)
class Check:
    """One threshold: what was measured, how far it is known, what was allowed, and whether it passed."""

    name: str
    measured: float
    limit: float
    is_lower_better: bool
    low: float | None = None
    high: float | None = None
    measured_on: str = ""
    undecided: str = ""

    @property
    def decisive(self) -> float:
        """The number that is held against the limit. The worse end of the interval where there is one, else what was measured."""
        end = self.high if self.is_lower_better else self.low
        return self.measured if end is None or self.measured != self.measured else end

    @property
    def has_passed(self) -> bool:
        """A number that is not a number passes nothing; what cannot be decided fails nothing."""
        if self.undecided:
            return True
        if self.is_lower_better:
            return self.decisive <= self.limit + ROUNDING
        return self.decisive >= self.limit - ROUNDING

    @property
    def verdict(self) -> str:
        """passed, failed or not decided."""
        return "not decided" if self.undecided else "passed" if self.has_passed else "failed"

    @property
    def laxness(self) -> str:
        """What a model may lose and still pass."""
        what = self.name.removesuffix("_ratio").removeprefix("num_").replace("_", " ")
        share = f"{100 * abs(1 - self.limit):.3g}%"
        if self.is_lower_better:
            return f"{what} may rise by {share}" if self.limit >= 1 else f"{what} must fall by {share}"
        return f"{share} of the {what} may be lost" if self.limit <= 1 else f"{what} must rise by {share}"

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        derived = {"has_passed": self.has_passed, "verdict": self.verdict, "laxness": self.laxness}
        return {**asdict(self), **derived, "known": known(self.low, self.high)}

    def __str__(self) -> str:
        sign, on = ("<=" if self.is_lower_better else ">="), f" on {self.measured_on}" if self.measured_on else ""
        interval = f" {known(self.low, self.high)}".rstrip()
        return f"{self.name} {self.measured:.4g}{interval}{on} {sign} {self.limit:.4g} {self.verdict}"


def known(low: float | None, high: float | None) -> str:
    """Return an interval as text; empty where there is none."""
    return f"[{low:.3g}, {high:.3g}]" if low is not None and high is not None else ""


# threshold name -> (metric, is the limit an upper one); every threshold is on candidate divided by baseline
THRESHOLDS = {
    "min_accuracy_retention": ("accuracy", False),
    "max_perplexity_ratio": ("perplexity", True),
    "max_decode_latency_ratio": ("decode_seconds_per_token", True),
    "max_prefill_latency_ratio": ("prefill_seconds", True),
    "max_size_ratio": ("num_parameters", True),
    # of encoders
    "min_spearman_retention": ("spearman", False),
    "min_mrr_retention": ("mrr", False),
    # of classifiers, beside accuracy
    "min_macro_f1_retention": ("macro_f1", False),
    # of taggers, beside accuracy
    "min_span_f1_retention": ("span_f1", False),
    "max_embed_latency_ratio": ("embed_seconds", True),
    "max_batch_latency_ratio": ("embed_seconds_32", True),
    # of image classifiers
    "max_image_latency_ratio": ("image_seconds", True),
    "max_image_batch_latency_ratio": ("image_seconds_32", True),
    # of denoisers, beside seconds an image
    "max_frechet_ratio": ("frechet_distance", True),
    "min_recall_retention": ("recall", False),
    "max_forwards_ratio": ("num_forwards", True),
}
# Those of them that encoders alone have, those of classifiers, and of taggers.
ENCODER_METRICS = {"spearman", "mrr", "embed_seconds", "embed_seconds_32"}
CLASSIFIER_METRICS = {"accuracy", "macro_f1", "spearman", "embed_seconds", "embed_seconds_32"}
TAGGER_METRICS = {"accuracy", "span_f1", "embed_seconds", "embed_seconds_32"}
# And those that image classifiers have.
IMAGE_METRICS = {"accuracy", "image_seconds", "image_seconds_32"}
DENOISER_METRICS = {"frechet_distance", "recall", "num_forwards", "image_seconds"}


def run_gate(
    thresholds: Mapping[str, float],
    candidate: Mapping[str, float],
    baseline: Mapping[str, float],
    ratios: Mapping[str, Ratio] | None = None,
) -> list[Check]:
    """Return one check a threshold, each on candidate / baseline. Raises ValueError when a number was not measured.

    `ratios`: by metric, what is known of candidate / baseline; of others the quotient of the two numbers is.
    """
    checks = []
    for name, limit in thresholds.items():
        metric, is_lower_better = THRESHOLDS[name]
        for side, numbers in (("candidate", candidate), ("baseline", baseline)):
            if metric not in numbers:
                raise ValueError(f"gate.{name} needs {metric}, which the {side}'s evaluation did not measure")
        quotient = candidate[metric] / baseline[metric] if baseline[metric] else float("nan")
        ratio = (ratios or {}).get(metric, Ratio(quotient))
        ends = (ratio.low, ratio.high)
        checks.append(
            Check(f"{metric}_ratio", ratio.value, limit, is_lower_better, *ends, ratio.measured_on, ratio.undecided)
        )
    return checks
