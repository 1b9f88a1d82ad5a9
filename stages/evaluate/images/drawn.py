"""The figures of drawn images beside those of the original's. Ratios with intervals of pairs, drawn of the same noise and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.compressors.measure.bootstrap import PairedQuotient
from attar.registry.release.gate import Ratio
from attar.registry.release.interval_gate import Claim
from attar.stages.evaluate.gate_check import GateCheck

# What a check of a gate is a ratio of.
FIGURE_OF = {"frechet_ratio": "frechet_distance", "recall_retention": "recall"}
FIGURES = ("frechet_distance", "recall", "precision", "class_accuracy")
# One-sided, of the ends that thresholds are held against.
LEVEL = 0.025
# Stands for no upper bound, past every limit, where the original's figure is not told from 0: JSON has no infinity.
NO_BOUND = 1e6


def drawn_ratios(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Ratio]:
    """Return candidate / baseline of what images are measured by, where both drew the same noise. Nothing of models that draw none."""
    if "drawn" not in candidate or unlike(candidate, baseline):
        return {}
    return {name: _ratio(_quotient(name, candidate, baseline)) for name in FIGURES}


def drawn_claim(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    """Return a check with its evidence. Raises ValueError where no images were drawn, or others than the original's."""
    if why := unlike(candidate, baseline):
        raise ValueError(f"gate check {check.measure}: {why}")
    return check.claim(_quotient(FIGURE_OF[check.measure], candidate, baseline))


def unlike(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Say why the distances of two evaluations do not compare; empty where they do."""
    sides = (("evaluation", candidate), ("baseline", baseline))
    for who, evaluation in sides:
        if "drawn" not in evaluation:
            return f"{who} measured no images as sample does today; accepted: one of sample"
    own, other = candidate["drawn"], baseline["drawn"]
    for name in own:
        if own[name] != other.get(name):
            return f"evaluation and baseline were drawn with another {name}, {own[name]} and {other.get(name)}; accepted: the same"
    return ""


def _quotient(name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> PairedQuotient:
    seeds = [(candidate["seeds"][seed], baseline["seeds"][seed]) for seed in candidate["seeds"]]
    num_images = len(seeds) * candidate["drawn"]["num_images"]
    values = [(own[name], other[name]) for own, other in seeds]
    draws = [(own["draws"][name], other["draws"][name]) for own, other in seeds]
    return PairedQuotient.of(values, draws, num_images)


def _ratio(quotient: PairedQuotient) -> Ratio:
    low, high = (min(quotient.bound(LEVEL, is_upper=is_upper), NO_BOUND) for is_upper in (False, True))
    return Ratio(quotient.value, low, high, f"{quotient.num_units} images, in pairs")
