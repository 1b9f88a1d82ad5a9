"""The quotient of two statistics known by the same draws: Fieller's bounds, and what they agree with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attar.compressors.measure.bootstrap import PairedQuotient


def quotient(**changes: float) -> PairedQuotient:
    known = {"candidate": 3.0, "original": 2.0, "variances": (0.04, 0.02), "covariance": 0.01, "num_units": 500}
    return PairedQuotient(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.05, 0.005])
@pytest.mark.parametrize("is_upper", [True, False])
def test_the_p_value_at_a_bound_is_its_level(level: float, is_upper: bool) -> None:
    evidence = quotient()
    limit = evidence.bound(level, is_upper=is_upper)
    assert (limit > evidence.value) is is_upper
    assert evidence.p_value(limit, is_upper=is_upper) == pytest.approx(level)
    assert evidence.p_value(limit, is_upper=not is_upper) == pytest.approx(1.0 - level)


def test_the_bounds_hold_the_true_quotient_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covariance = np.array([[0.09, 0.05], [0.05, 0.06]])
    drawn = generator.multivariate_normal([3.0, 2.0], covariance, size=4000)
    inside = 0
    for own, other in drawn:
        evidence = PairedQuotient(own, other, (0.09, 0.06), 0.05, 1)
        inside += evidence.bound(0.05, is_upper=False) <= 1.5 <= evidence.bound(0.05, is_upper=True)
    # 90% of 4,000 within three standard deviations
    assert inside / 4000 == pytest.approx(0.90, abs=0.015)


def test_an_offset_of_all_draws_changes_nothing_and_more_points_tell_more() -> None:
    generator = np.random.default_rng(1)
    draws = generator.normal(size=(2, 60))
    plain = PairedQuotient.of([(3.0, 2.0)], [(draws[0], draws[1])], 100)
    moved = PairedQuotient.of([(3.0, 2.0)], [(draws[0] + 5.0, draws[1] + 7.0)], 100)
    assert moved.bound(0.1, is_upper=True) == pytest.approx(plain.bound(0.1, is_upper=True))
    assert plain.value == 1.5 and plain.num_units == 100
    grown = quotient().grown(4.0)
    assert grown.num_units == 2000 and grown.bound(0.05, is_upper=True) < quotient().bound(0.05, is_upper=True)


def test_an_original_that_is_not_told_from_nothing_bounds_nothing() -> None:
    vague = quotient(variances=(0.04, 9.0))
    assert vague.bound(0.025, is_upper=True) == math.inf and vague.bound(0.025, is_upper=False) == 0.0
    assert math.isnan(quotient(original=0.0).value)


def test_without_spread_the_quotient_itself_is_held_against_the_limit() -> None:
    exact = quotient(variances=(0.0, 0.0), covariance=0.0)
    assert exact.bound(0.05, is_upper=True) == pytest.approx(1.5)
    assert (exact.p_value(1.5, is_upper=True), exact.p_value(1.4, is_upper=True)) == (0.0, 1.0)
    assert (exact.p_value(1.5, is_upper=False), exact.p_value(1.6, is_upper=False)) == (0.0, 1.0)
