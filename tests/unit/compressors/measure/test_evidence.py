"""Bounds and p-values agree with each other and with the books, and more of the same tells more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from attar.compressors.measure.bootstrap import Drawn, PairedRetention, mean_over
from attar.compressors.measure.evidence import Exact, t_quantile, t_tail
from attar.compressors.measure.newcombe import Cells, PairedDrop, binomial_tail
from attar.compressors.measure.rounds import PairedRounds

TEXTS = np.random.default_rng(3).gamma(4.0, 0.05, 40)
EVIDENCE = [
    PairedDrop((Cells(60, 12, 5, 22),)),
    PairedDrop((Cells(60, 12, 5, 22), Cells(10, 3, 4, 6))),
    PairedRetention((Cells(60, 12, 5, 22),)),
    PairedRounds((0.9, 0.97, 0.93, 0.99, 0.95)),
    mean_over(list(TEXTS * 30), [30.0] * 40, "texts"),
]


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 999])
@pytest.mark.parametrize("t", [-2.5, 0.0, 0.3, 1.7, 6.0])
def test_students_t_is_scipys(degrees: int, t: float) -> None:
    assert t_tail(t, degrees) == pytest.approx(stats.t.sf(t, degrees), rel=1e-6, abs=1e-12)
    if 0 < t_tail(t, degrees) < 0.5:
        assert t_quantile(t_tail(t, degrees), degrees) == pytest.approx(t, rel=1e-6)


def test_newcombes_own_example() -> None:
    """Method 10 of the paper for 36, 12, 2 and 0 questions: 0.0569 to 0.3404."""
    drop = PairedDrop((Cells(36, 12, 2, 0),))
    assert drop.value == pytest.approx(0.2)
    ends = [drop.bound(0.025, is_upper=is_upper) for is_upper in (False, True)]
    assert ends == pytest.approx([0.0569, 0.3404], abs=5e-5)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (5, 5), (12, 2), (2, 12), (40, 31)])
def test_against_no_drop_at_all_the_test_is_mcnemars_exact(lost: int, won: int) -> None:
    drop = PairedDrop((Cells(50, lost, won, 20),))
    pairs = lost + won
    expected = stats.binomtest(won, pairs, alternative="greater").pvalue if pairs else 1.0
    assert drop.p_value(0.0, is_upper=True) == pytest.approx(expected)
    assert binomial_tail(won, pairs) == pytest.approx(expected)


@pytest.mark.parametrize("evidence", EVIDENCE, ids=lambda evidence: f"{type(evidence).__name__}-{evidence.num_units}")
def test_a_bound_lies_where_the_p_value_says(evidence) -> None:
    for level in (0.2, 0.05, 0.01):
        for is_upper in (False, True):
            end = evidence.bound(level, is_upper=is_upper)
            assert (end > evidence.value) is is_upper
            # draws step by 1 in 2,000, and by 1 in 20,000
            assert evidence.p_value(end, is_upper=is_upper) == pytest.approx(level, rel=0.15)
    assert evidence.p_value(evidence.value, is_upper=True) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("evidence", EVIDENCE, ids=lambda evidence: f"{type(evidence).__name__}-{evidence.num_units}")
def test_more_questions_answered_alike_know_more(evidence) -> None:
    grown = evidence.grown(4.0)
    assert grown.num_units == 4 * evidence.num_units and grown.value == pytest.approx(evidence.value)
    widths = [some.bound(0.05, is_upper=True) - some.bound(0.05, is_upper=False) for some in (evidence, grown)]
    assert widths[1] < 0.65 * widths[0], "half of it, about"


def test_what_has_no_spread_is_within_or_not() -> None:
    assert Exact(0.72 / 0.8).p_value(0.9, is_upper=False) == 0.0, "a hair below in binary"
    assert Exact(1.01).p_value(1.0, is_upper=True) == 1.0
    assert PairedRounds((0.9, 0.9)).p_value(0.95, is_upper=True) == 0.0


def test_too_little_to_draw_from_tells_nothing() -> None:
    single = mean_over([3.0], [10.0], "texts")
    assert single.value == pytest.approx(0.3) and math.isinf(single.bound(0.05, is_upper=True))
    assert single.p_value(100.0, is_upper=True) == 1.0
    assert PairedRounds((0.9,)).p_value(2.0, is_upper=True) == 1.0


def test_the_bound_of_a_mean_over_few_texts_is_passed_as_often_as_it_says() -> None:
    """5% of 600 draws of 12 texts: 30, give or take three standard deviations (16); the plain percentile bound is passed more often."""
    generator, plain, expanded = np.random.default_rng(0), 0, 0
    for _ in range(600):
        texts = generator.normal(0.3, 0.1, 12)
        drawn = mean_over(list(texts), [1.0] * 12, "texts")
        expanded += drawn.bound(0.05, is_upper=True) < 0.3
        plain += Drawn(drawn.value, drawn.draws, 12, "texts").bound(0.05, is_upper=True) < 0.3
    assert expanded <= 46 and expanded < plain


def test_newcombes_bound_is_passed_as_seldom_as_it_says() -> None:
    """One-sided 5% at the limit itself: over 2,000 drawn sets of 120 questions 100, give or take three standard deviations (29)."""
    generator = np.random.default_rng(1)
    drawn = generator.multinomial(120, (0.6, 0.15, 0.05, 0.2), size=2000)
    bounds: dict[tuple[int, ...], float] = {}
    for row in {tuple(row) for row in drawn.tolist()}:
        bounds[row] = PairedDrop((Cells(*row),)).bound(0.05, is_upper=True)
    num_wrong = sum(bounds[tuple(row)] < 0.1 for row in drawn.tolist())
    assert 60 <= num_wrong <= 129
