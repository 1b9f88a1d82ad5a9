"""Evidence that may be read at any time: over thousands of simulated nights it promotes wrongly no more often than it says, on fewer questions."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from attar.compressors.measure.betting import GIVE_UP, Wagered, capital
from attar.compressors.measure.newcombe import Cells, PairedDrop

LIMIT, LEVEL, NUM_NIGHTS = 0.1, 0.05, 2000
BLOCK = 8


def nights(drop: float, flips: float, num_questions: int, seed: int = 0) -> np.ndarray:
    """Nights of questions: 1 where the candidate lost an answer that its original has, -1 where it won one."""
    generator = np.random.default_rng(seed)
    shares = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    return generator.choice([1.0, -1.0, 0.0], p=shares, size=(NUM_NIGHTS, num_questions))


def sequential(drops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each night passed, and how many questions it took: `ask_in_blocks` for one check, all nights at once."""
    within = capital(LIMIT - drops, LIMIT - 1.0, LIMIT)
    past = capital(drops - LIMIT, -1.0 - LIMIT, LIMIT)
    ends = np.arange(BLOCK - 1, drops.shape[1], BLOCK)
    passed, failed = (np.maximum.accumulate(side, axis=1)[:, ends] >= 1 / LEVEL for side in (within, past))
    hopeless = (within[:, ends] < GIVE_UP) & (past[:, ends] < 1.0)
    first = [
        np.where(event.any(axis=1), ends[event.argmax(axis=1)] + 1, drops.shape[1] + 1)
        for event in (passed, failed, hopeless)
    ]
    stopped = np.minimum(np.minimum.reduce(first), drops.shape[1])
    return (first[0] <= stopped) & (first[1] > stopped), stopped


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


@pytest.mark.parametrize(("flips", "num_fixed"), [(0.1, 130), (0.2, 200)])
def test_fewer_questions_at_the_same_power(flips: float, num_fixed: int) -> None:
    """A model that lost nothing: as many nights pass as with all questions of a fixed plan, with 30% fewer of them."""
    power = fixed(nights(0.0, flips, num_fixed, seed=1))
    passed, num_asked = sequential(nights(0.0, flips, 2 * num_fixed, seed=2))
    assert power > 0.9 and passed.mean() >= power
    assert num_asked.mean() <= 0.7 * num_fixed


def test_a_bad_model_costs_little_and_is_failed() -> None:
    passed, num_asked = sequential(nights(0.25, 0.35, 600, seed=3))
    assert not passed.any() and num_asked.mean() < 100


@pytest.mark.parametrize("is_ratio", [False, True])
def test_the_interval_holds_the_truth_at_every_time(is_ratio: bool) -> None:
    """Candidate and original right in 60% and 75%: in at most 5% of 200 nights the lower or the upper bound ever passes the truth."""
    generator, truth = np.random.default_rng(5), 0.6 / 0.75 if is_ratio else 0.15
    num_wrong = [0, 0]
    for _ in range(200):
        cells = generator.choice(4, size=160, p=(0.55, 0.2, 0.05, 0.2))
        wagered = Wagered(np.isin(cells, (0, 2)).astype(float), np.isin(cells, (0, 1)).astype(float), is_ratio)
        for side, is_upper in enumerate((False, True)):
            num_wrong[side] += wagered.p_value(truth, is_upper=is_upper) <= LEVEL
    assert max(num_wrong) <= 10


def test_bounds_close_in_and_agree_with_the_p_value() -> None:
    generator = np.random.default_rng(7)
    cells = generator.choice(4, size=400, p=(0.7, 0.08, 0.06, 0.16))
    wagered = Wagered(np.isin(cells, (0, 2)).astype(float), np.isin(cells, (0, 1)).astype(float))
    low, high = (wagered.bound(0.05, is_upper=is_upper) for is_upper in (False, True))
    assert -0.2 < low < wagered.value < high < 0.2
    assert wagered.p_value(high, is_upper=True) <= 0.05 < wagered.p_value(high - 0.01, is_upper=True)
    assert wagered.grown(4).bound(0.05, is_upper=True) < high and wagered.grown(4).num_units == 1600
