"""What held-out evaluations compare. One measure that is the same from the first step to the last, whatever the objective does meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import ViewName


def fixed_measure(reduction: Reduction, last: Clock, moving: Collection[ViewName]) -> Reduction | None:
    """Return the objectives that evaluations are compared by: a function of the student's weights alone.

    Schedules stand where they end (`last`), so that a divergence that is switched and a share or a weight that ramps are the same at every
    look. An objective toward a source that moves with the student (`moving`) is none: an unsure student comes nearer to its own past
    whatever it learned. In its place stands the same pull toward a source that stays, or else the labels' loss.
    None: a policy loss is learned, of which given text knows nothing; what is left beside it, a pull to where it started, would be
    best before the first step.
    """
    at_end = reduction.at(last)
    if any("rewards" in objective.requires.facts for objective in at_end.objectives.values()):
        return None
    measured = on_given_text(at_end, moving)
    objectives = {name: objective for name, objective in measured.objectives.items() if measured.weights[name] > 0}
    return replace(measured, objectives=objectives, schedules={}) if objectives else None


def on_given_text(reduction: Reduction, moving: Collection[ViewName] = ()) -> Reduction:
    """Return the objectives that have something to say about text that the student did not draw. Every held-out sequence counts alike."""
    held_out = {name: objective.held_out(moving) for name, objective in reduction.objectives.items()}
    return replace(
        reduction, objectives={name: objective for name, objective in held_out.items() if objective is not None}
    )


def with_measure(now: Reduction, measure: Reduction | None) -> tuple[Reduction, dict[str, float]]:
    """Return the current objectives with those of the measure beside them. The measure is the sum by the returned weights.

    What both hold is computed once.
    """
    if measure is None:
        return now, {}
    objectives, weights, shares = dict(now.objectives), dict(now.weights), {}
    for name, objective in measure.objectives.items():
        own = name if objectives.get(name) == objective else f"measure {name}"
        objectives[own], shares[own] = objective, measure.weights[name]
        weights.setdefault(own, 0.0)
    return replace(now, objectives=objectives, weights=weights, schedules={}), shares


def is_learned(measure: Reduction | None, learned: Reduction) -> bool:
    """Say whether evaluations are compared by the very objectives that are learned, with their weights."""
    return measure is None or (
        not learned.schedules
        and all(learned.objectives[name] == objective for name, objective in measure.objectives.items())
    )


def measured_sum(losses: Mapping[str, float], shares: Mapping[str, float]) -> float | None:
    """Return the measure, or None where no held-out token says anything about it."""
    known = [weight * losses[name] for name, weight in shares.items() if name in losses]
    return sum(known) if known else None
