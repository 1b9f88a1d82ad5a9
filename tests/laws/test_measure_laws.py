"""The measure that evaluations are compared by: schedules where they end, no source that moves, no policy loss, each part once."""

from __future__ import annotations

import pytest

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.loop.fixed_measure import fixed_measure, measured_sum, on_given_text, with_measure
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence
from attar.compressors.distill.losses.weights.sample_weights import SelfPaced

LAST = Clock(step=3, num_steps=4, epoch=1, num_epochs=2)
TO_TEACHER = Distil(divergence=ForwardKL())
TO_PAST = Distil(divergence=ForwardKL(), target=Identity(of="past"))
POLICY = Distil(divergence=ClippedRatio())


def reduction(**objectives: object) -> Reduction:
    return Reduction(objectives, dict.fromkeys(objectives, 1.0))  # type: ignore[arg-type]


def test_schedules_stand_where_they_end_and_are_gone() -> None:
    ramp = {"labels": (LinearRamp(parameter="weight", start=0.0, end=2.0, by="step"),)}
    switch = {"own": (SwitchDivergence(to=ReverseKL(), at_fraction=0.5),)}
    changing = Reduction({"own": TO_TEACHER, "labels": NextToken()}, {"own": 1.0, "labels": 0.5}, ramp | switch)
    measure = fixed_measure(changing, LAST, ())
    assert measure is not None
    assert measure.objectives == {"own": Distil(divergence=ReverseKL()), "labels": NextToken()}
    assert measure.weights == {"own": 1.0, "labels": 2.0} and measure.schedules == {}


def test_what_weighs_nothing_in_the_end_is_not_measured() -> None:
    mixed = Reduction({"own": TO_TEACHER, "labels": NextToken()}, {"own": 0.25, "labels": 0.0})
    measure = fixed_measure(mixed, LAST, ())
    assert measure is not None and measure.objectives == {"own": TO_TEACHER}
    assert fixed_measure(Reduction({"own": TO_TEACHER}, {"own": 0.0}), LAST, ()) is None


def test_beside_a_policy_loss_there_is_no_measure() -> None:
    assert fixed_measure(reduction(pull=TO_TEACHER, policy=POLICY), LAST, ()) is None
    assert fixed_measure(reduction(policy=POLICY, pull=TO_TEACHER), LAST, ()) is None
    assert fixed_measure(reduction(pull=TO_TEACHER), LAST, ()) == reduction(pull=TO_TEACHER)


def test_in_place_of_a_source_that_moves_stands_the_labels_loss() -> None:
    measure = fixed_measure(reduction(own=TO_PAST), LAST, ["past"])
    assert measure is not None and measure.objectives == {"own": NextToken()}
    measure = fixed_measure(reduction(own=TO_PAST), LAST, ["anchor"])
    assert measure is not None and measure.objectives == {"own": TO_PAST}


def test_given_text_knows_nothing_of_draws_and_weighs_sequences_alike() -> None:
    weighted = Distil(divergence=ForwardKL(), sample_weight=SelfPaced(kappa_nats=1.0))
    held_out = on_given_text(reduction(own=weighted, policy=POLICY))
    assert held_out.objectives == {"own": TO_TEACHER} and held_out.weights == {"own": 1.0, "policy": 1.0}
    assert on_given_text(reduction(own=TO_PAST), ["past"]).objectives == {"own": NextToken()}


def test_what_the_objectives_and_the_measure_share_is_computed_once() -> None:
    ramp = {"own": (LinearRamp(parameter="weight", end=2.0, by="step"),)}
    now = Reduction({"own": TO_TEACHER, "labels": NextToken()}, {"own": 0.5, "labels": 1.0}, ramp)
    measure = Reduction({"own": TO_TEACHER, "labels": TO_PAST}, {"own": 2.0, "labels": 3.0})
    both, shares = with_measure(now, measure)
    assert both.objectives == {"own": TO_TEACHER, "labels": NextToken(), "measure labels": TO_PAST}
    assert both.weights == {"own": 0.5, "labels": 1.0, "measure labels": 0.0}, "what is only measured teaches nothing"
    assert shares == {"own": 2.0, "measure labels": 3.0} and both.schedules == {}
    assert with_measure(now, None) == (now, {})
    alone, shares = with_measure(reduction(own=TO_TEACHER), Reduction({"more": NextToken()}, {"more": 1.5}))
    assert alone.weights == {"own": 1.0, "measure more": 0.0} and shares == {"measure more": 1.5}


@pytest.mark.parametrize(
    ("losses", "shares", "expected"),
    [
        ({"a": 2.0, "b": 3.0, "c": 9.0}, {"a": 0.5, "b": 2.0}, 7.0),
        ({"a": 2.0}, {"a": 0.5, "b": 2.0}, 1.0),
        ({"c": 9.0}, {"a": 0.5}, None),
        ({"a": 2.0}, {}, None),
    ],
)
def test_the_measure_is_the_weighted_sum_of_what_is_known(
    losses: dict[str, float], shares: dict[str, float], expected: float | None
) -> None:
    assert measured_sum(losses, shares) == expected
