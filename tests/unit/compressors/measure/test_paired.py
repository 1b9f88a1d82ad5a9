"""Intervals of shares: they cover what is true as often as they say, and few questions know little."""

from __future__ import annotations

import numpy as np
import pytest

from attar.compressors.measure.paired import mean_share, paired_retention, share


@pytest.mark.parametrize(
    ("num_right", "count", "low", "high"),
    # Wilson's interval as statsmodels.stats.proportion.proportion_confint(method="wilson") gives it
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (19, 23, 0.6286, 0.9302),
        (81, 100, 0.7222, 0.8748),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_a_share_has_wilsons_interval(num_right: int, count: int, low: float, high: float) -> None:
    estimate = share([1.0] * num_right + [0.0] * (count - num_right))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((num_right / count, low, high), abs=1e-4)


def test_one_task_is_its_own_mean_and_two_know_more_than_one() -> None:
    right = [1.0] * 19 + [0.0] * 4
    assert mean_share([right]) == share(right)
    two = mean_share([right, right])
    assert two.value == pytest.approx(share(right).value)
    assert two.high - two.low == pytest.approx((share(right).high - share(right).low) / 2**0.5)


def test_few_questions_know_little_even_where_all_are_alike() -> None:
    three = paired_retention([([1.0] * 3, [1.0] * 3)])
    assert three.value == 1.0 and three.low < 0.75 and three.high > 1.25, "a resampling of them would say 1 to 1"
    many = paired_retention([([1.0] * 300, [1.0] * 300)])
    assert three.low < many.low < 1.0 < many.high < three.high


def test_the_same_questions_tell_more_than_others_would() -> None:
    """81 and 99 of 100 right, all of the 81 among the 99, are closer known than with the failures apart."""
    baseline = [1.0] * 80 + [0.0] * 20
    within = [1.0] * 65 + [0.0] * 35
    apart = [0.0] * 15 + [1.0] * 65 + [0.0] * 20
    crossed = [0.0] * 35 + [1.0] * 65
    ends = [paired_retention([(candidate, baseline)]) for candidate in (within, apart, crossed)]
    assert ends[0].value == ends[1].value == ends[2].value == pytest.approx(65 / 80)
    widths = [end.high - end.low for end in ends]
    assert widths[0] == pytest.approx(widths[1], rel=0.03) and widths[2] > 1.2 * widths[0]


@pytest.mark.parametrize(("cells", "count"), [((0.6, 0.05, 0.2, 0.15), 23), ((0.75, 0.05, 0.1, 0.1), 100)])
def test_the_interval_holds_the_truth_as_often_as_it_says(cells: tuple[float, ...], count: int) -> None:
    """95% of 400 draws: 380, give or take three standard deviations (13)."""
    truth = (cells[0] + cells[1]) / (cells[0] + cells[2])
    generator, num_held = np.random.default_rng(0), 0
    for index in range(400):
        drawn = generator.choice(4, size=count, p=cells)
        estimate = paired_retention([(np.isin(drawn, (0, 1)).tolist(), np.isin(drawn, (0, 2)).tolist())], seed=index)
        num_held += estimate.low <= truth <= estimate.high
    assert 367 <= num_held <= 393
