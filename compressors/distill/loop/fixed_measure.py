"""What looks at held-out rows compare: one measure that is the same from the first step to the last, whatever the objective does meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy
from attar.compressors.distill.losses.objectives import NextToken, Objective
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity
from attar.compressors.distill.losses.traits import Traits
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.losses.weights.coefficients import Clock

OTHERS: tuple[ViewName, ...] = ("teacher", "anchor", "past")


def fixed_measure(reduction: Reduction, last: Clock, moving: Collection[ViewName]) -> Reduction | None:
    """Return the objectives that looks are compared by: a function of the student's weights alone, nats a token.

    Schedules stand where they end (`last`), so that a divergence that is switched and a share or a weight that ramps are the same at every
    look. An objective toward a party that moves with the student (`moving`) is none: an unsure student comes nearer to its own past
    whatever it learned. In its place stands KL(party || student) of a party of its target that stays, or else the labels' loss.
    None: a policy loss is learned, of which given text knows nothing; what is left beside it, a pull to where it started, would be
    best before the first step.
    """
    at_end = reduction.at(last)
    if any(_traits(one).needs_reward for one in at_end.objectives.values()):
        return None
    spoken = on_given_text(at_end)
    objectives = {name: _standing(one, moving) for name, one in spoken.objectives.items() if spoken.weights[name] > 0}
    return replace(spoken, objectives=objectives, schedules={}) if objectives else None


def on_given_text(reduction: Reduction) -> Reduction:
    """Return the objectives that have something to say about text that the student did not draw; every held-out sequence counts alike."""
    kept = {}
    for name, one in reduction.objectives.items():
        traits = _traits(one)
        if not (traits.needs_student_draws or traits.needs_reward):
            kept[name] = replace(one, sample_weight=None) if isinstance(one, Distil) else one
    return replace(reduction, objectives=kept)


def with_measure(now: Reduction, measure: Reduction | None) -> tuple[Reduction, dict[str, float]]:
    """Return the objectives of now with those of the measure beside them, and the weight of each that the measure is the sum of.

    What both hold is computed once.
    """
    if measure is None:
        return now, {}
    objectives, weights, shares = dict(now.objectives), dict(now.weights), {}
    for name, one in measure.objectives.items():
        own = name if objectives.get(name) == one else f"measure {name}"
        objectives[own], shares[own] = one, measure.weights[name]
        weights.setdefault(own, 0.0)
    return replace(now, objectives=objectives, weights=weights, schedules={}), shares


def measured_sum(losses: Mapping[str, float], shares: Mapping[str, float]) -> float | None:
    """Return the measure, or None where no held-out token says anything about it."""
    known = [weight * losses[name] for name, weight in shares.items() if name in losses]
    return sum(known) if known else None


def _standing(objective: Objective, moving: Collection[ViewName]) -> Objective:
    read = getattr(objective, "views", frozenset({"teacher"}) if objective.uses_teacher else frozenset())
    if not read & set(moving):
        return objective
    own = (
        objective if isinstance(objective, Distil) else Distil(divergence=CrossEntropy(), target=Identity(of="labels"))
    )
    fixed: list[ViewName] = [name for name in OTHERS if name in read and name not in moving]
    if fixed and isinstance(objective, Distil):
        return Distil(divergence=ForwardKL(), target=Identity(of=fixed[0]), route=own.route, reduction=own.reduction)
    if own.route == "all" and own.reduction == "token":
        return NextToken()
    return Distil(divergence=CrossEntropy(), target=Identity(of="labels"), route=own.route, reduction=own.reduction)


def _traits(objective: Objective) -> Traits:
    return getattr(getattr(objective, "divergence", None), "traits", Traits(needs_target=objective.uses_teacher))
