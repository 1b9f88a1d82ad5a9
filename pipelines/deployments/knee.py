"""The knee of a sweep: the least costly trial that is nearly as good as the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.registry.artifacts.facts import Facts


@dataclass(frozen=True)
class Timing:
    """A figure that says how fast a model is, and what a table calls it in milliseconds."""

    figure: str
    column: str


# The first that a model has: of causal models, of those that fill masks, of image classifiers, of models that make vectors or read texts.
TIMINGS = (
    Timing("decode_seconds_per_token", "decode ms/token"),
    Timing("text_seconds", "ms/text alone"),
    Timing("image_seconds", "ms/image"),
    Timing("embed_seconds", "ms/text"),
)
# What a trial costs, where it is measured: a count, which is the same on every machine and in every run.
COST = "flops_per_image"


@dataclass(frozen=True)
class Measured:
    """A trial by its number: what it is judged by, and what it costs."""

    trial: int
    quality: float
    cost: float


def timing_of(facts: Facts) -> Timing:
    """Return the figure of speed that a model has; that of causal models where it has none."""
    return next((timing for timing in TIMINGS if timing.figure in facts), TIMINGS[0])


def cost_of(facts: Facts) -> float:
    """Return what a model costs: operations an image, or seconds where those are not counted."""
    return float(facts.get(COST) or facts[timing_of(facts).figure])


def knee_of(trials: Sequence[Measured], tolerance: float, *, is_more_better: bool) -> int | None:
    """Return the cheapest trial within a share `tolerance` of the best quality, by its number. Of two as cheap the better; None without trials.

    https://arxiv.org/abs/2510.07191 reads such a knee off a curve of resolutions.
    """
    if not trials:
        return None
    sign = 1.0 if is_more_better else -1.0
    best = max(sign * trial.quality for trial in trials)
    near = [trial for trial in trials if sign * trial.quality >= best - tolerance * abs(best)]
    return min(near, key=lambda trial: (trial.cost, -sign * trial.quality, trial.trial)).trial
