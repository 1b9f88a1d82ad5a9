"""Choosing blocks: the cheapest choice that saves enough, protected blocks kept, what cannot be met refused."""

from __future__ import annotations

import itertools
import random

import pytest

from attar.compressors.prune.depth.block_cost import Costs
from attar.compressors.prune.depth.select import (
    Saving,
    choose_free,
    choose_in_order,
    choose_window,
    protected_blocks,
)

# a window's score is not the sum of its blocks': the best pair avoids the best block
SCORES = {(0, 1): 5.0, (1, 1): 1.0, (2, 1): 4.0, (3, 1): 3.0, (4, 1): 2.0}
SCORES |= {(0, 2): 9.0, (1, 2): 8.0, (2, 2): 6.0, (3, 2): 7.0, (0, 3): 9.5, (1, 3): 9.1, (2, 3): 9.2}


def count(num_removed: int) -> list[Saving]:
    return [Saving.of_count(num_removed, 5)]


def test_window_and_free_choice_differ_where_they_should() -> None:
    assert choose_window(SCORES, count(2)) == [2, 3]
    assert choose_free(SCORES, count(2)) == [1, 4]


def test_protected_blocks_stay() -> None:
    assert protected_blocks(5, 1, 2) == {0, 3, 4}
    assert choose_free(SCORES, count(2), protected_blocks(5, 2, 1)) == [2, 3]
    assert choose_window(SCORES, count(2), protected_blocks(5, 0, 2)) == [1, 2]
    assert choose_window(SCORES, count(2), protected_blocks(5, 3, 0)) == [3, 4]
    with pytest.raises(ValueError, match="protect_first 3 and protect_last 2 protect all 5 blocks"):
        protected_blocks(5, 3, 2)


def test_a_share_of_the_whole_is_what_may_be_left() -> None:
    costs = Costs((10.0,) * 5, rest=50.0)  # the whole costs 100
    assert choose_window(SCORES, [Saving.of_quantity("parameters", costs, 0.8)]) == [2, 3]
    assert choose_window(SCORES, [Saving.of_quantity("parameters", costs, 0.79)]) == [1, 2, 3]
    assert choose_free(SCORES, [Saving.of_quantity("parameters", costs, 0.9)]) == [1]
    latency = Costs((1.0, 1.0, 1.0, 1.0, 6.0), rest=0.0)
    both = [Saving.of_quantity("parameters", costs, 0.9), Saving.of_quantity("latency", latency, 0.4)]
    assert choose_free(SCORES, both) == [4], "one block meets both; the lowest-scoring one does not"


def test_what_cannot_be_met_is_refused_in_one_line() -> None:
    costs = Costs((10.0,) * 5, rest=50.0)
    for choose in (choose_window, choose_free):
        with pytest.raises(ValueError, match="70 parameters must go, but at most 40 can: 5 of 5 blocks may be removed"):
            choose(SCORES, [Saving.of_quantity("parameters", costs, 0.3)])
        with pytest.raises(ValueError, match="3 blocks must go, but at most 2 can: 2 of 5 blocks may be removed"):
            choose(SCORES, count(3), protected_blocks(5, 2, 1))
    with pytest.raises(
        ValueError, match=r"windows of 4 blocks have no score that may be chosen; scored sizes: \[1, 2, 3\]"
    ):
        choose_window(SCORES, count(4))
    with pytest.raises(ValueError, match="no single window saves enough"):
        choose_window(SCORES, count(3), frozenset([2]))


def test_greedy_order_is_followed_as_far_as_needed() -> None:
    assert choose_in_order([3, 0, 4], count(2)) == [0, 3]
    with pytest.raises(ValueError, match="the greedy order removes block 0, which is protected"):
        choose_in_order([3, 0, 4], count(2), frozenset([0]))
    assert choose_in_order([3, 0, 4], count(1), frozenset([0])) == [3], "not reached, not refused"
    with pytest.raises(ValueError, match="ends after 3 blocks, too few; raise num_greedy_steps"):
        choose_in_order([3, 0, 4], count(4))


@pytest.mark.parametrize("seed", range(30))
def test_free_choice_against_every_subset(seed: int) -> None:
    """Equal costs: the optimum. Unequal: enough is saved, nothing is removed in vain, and the sum is at most twice the optimum's."""
    draw = random.Random(seed)
    num_blocks = 8
    scores = {(index, 1): draw.random() for index in range(num_blocks)}
    sizes = [1.0] * num_blocks if seed % 2 else [draw.choice([1.0, 2.0, 4.0]) for _ in range(num_blocks)]
    savings = [Saving("parameters", sizes, 0.4 * sum(sizes))]
    chosen = choose_free(scores, savings)
    subsets = [set(c) for k in range(1, num_blocks) for c in itertools.combinations(range(num_blocks), k)]
    best = min(sum(scores[i, 1] for i in s) for s in subsets if savings[0].is_met(s))
    total = sum(scores[index, 1] for index in chosen)
    assert savings[0].is_met(chosen)
    assert not any(savings[0].is_met([other for other in chosen if other != index]) for index in chosen)
    assert total <= (1.0 + 1e-9 if seed % 2 else 2.0) * best
