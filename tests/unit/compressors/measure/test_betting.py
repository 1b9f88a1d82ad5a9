"""Evidence that may be read at any time: over thousands of simulated nights it promotes wrongly no more often than it says, on fewer questions."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from attar.compressors.measure.betting import Wagered
from attar.compressors.measure.newcombe import Cells, PairedDrop
from tests.simulated_nights import LEVEL, LIMIT, nights, sequential


@cache
def _fixed_passes(lost: int, won: int, num_questions: int) -> bool:
    both = max(0.0, 0.7 * num_questions - lost)
    cells = Cells(both, lost, won, num_questions - both - lost - won)
    return PairedDrop((cells,)).bound(LEVEL, is_upper=True) <= LIMIT


def fixed(drops: np.ndarray) -> float:
    """Share of the nights that the gate passes when all questions are asked."""
    lost, won = (drops == 1).sum(axis=1), (drops == -1).sum(axis=1)
    return float(np.mean([_fixed_passes(int(a), int(b), drops.shape[1]) for a, b in zip(lost, won, strict=True)]))


@pytest.mark.parametrize("flips", [0.1, 0.2, 0.4])
def test_false_promotions_stay_below_the_level(flips: float) -> None:
    """A model just at the limit, which must not pass: 2,000 nights, verdict looked at after every block."""
    passed, _ = sequential(nights(LIMIT, flips, 600))
    assert passed.mean() <= LEVEL


@pytest.mark.parametrize(("flips", "num_fixed"), [(0.1, 130), (0.2, 220)])
def test_fewer_questions_at_the_same_power(flips: float, num_fixed: int) -> None:
    """A model that lost nothing: as many nights pass as with all questions of a fixed plan, with 30% fewer of them."""
    power = fixed(nights(0.0, flips, num_fixed, seed=1))
    passed, num_asked = sequential(nights(0.0, flips, 3 * num_fixed, seed=2))
    assert power > 0.95 and passed.mean() >= power
    assert num_asked.mean() <= 0.7 * num_fixed


def test_a_bad_model_costs_little_and_is_failed() -> None:
    passed, num_asked = sequential(nights(0.25, 0.35, 600, seed=3))
    assert not passed.any() and num_asked.mean() < 100


@pytest.mark.parametrize("is_ratio", [False, True])
def test_the_interval_holds_the_truth_at_every_time(is_ratio: bool) -> None:
    """Candidate and original right in 60% and 75%: in at most 5% of 800 nights a bound ever passes the truth."""
    generator, truth = np.random.default_rng(5), 0.6 / 0.75 if is_ratio else 0.15
    num_wrong = [0, 0]
    for _ in range(800):
        cells = generator.choice(4, size=160, p=(0.55, 0.2, 0.05, 0.2))
        wagered = Wagered(np.isin(cells, (0, 2)).astype(float), np.isin(cells, (0, 1)).astype(float), is_ratio)
        for side, is_upper in enumerate((False, True)):
            num_wrong[side] += wagered.p_value(truth, is_upper=is_upper) <= LEVEL
    assert max(num_wrong) <= 40


def test_bounds_close_in_and_agree_with_the_p_value() -> None:
    generator = np.random.default_rng(7)
    cells = generator.choice(4, size=400, p=(0.7, 0.08, 0.06, 0.16))
    wagered = Wagered(np.isin(cells, (0, 2)).astype(float), np.isin(cells, (0, 1)).astype(float))
    low, high = (wagered.bound(0.05, is_upper=is_upper) for is_upper in (False, True))
    assert -0.2 < low < wagered.value < high < 0.2
    assert wagered.p_value(high, is_upper=True) <= 0.05 < wagered.p_value(high - 0.01, is_upper=True)
    assert wagered.grown(4).num_units == 1600 and wagered.grown(4).bound(0.05, is_upper=True) <= high
    assert wagered.grown(4).p_value(0.07, is_upper=True) < 0.1 * wagered.p_value(0.07, is_upper=True)
