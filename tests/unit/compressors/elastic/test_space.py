"""A space is every combination whose heads divide the width; a step has the largest and the smallest; a search says the nearest."""

from __future__ import annotations

from collections import Counter

import pytest

from attar.compressors.elastic.search import Candidate, best, largest, meeting, spread
from attar.compressors.elastic.space import Sandwich, Space, Subnet

WHOLE = Subnet(6, 384, 12, 1536)
SPACE = Space(blocks=(3, 4), width=(192, 288), heads=(6, 9), channels=(768,))


def test_every_combination_is_there_whose_heads_divide_its_width_into_none_wider_than_the_whole_s() -> None:
    subnets = SPACE.subnets(WHOLE)
    assert subnets[0] == WHOLE and len(set(subnets)) == len(subnets)
    pairs = {(subnet.width, subnet.heads) for subnet in subnets}
    assert pairs == {(384, 12), (288, 9), (288, 12), (192, 6), (192, 12)}  # 288 / 6 is 48, above the whole's 32
    assert len(subnets) == 5 * 3 * 2
    assert Space(blocks=(3,)).subnets(WHOLE) == (WHOLE, Subnet(3, 384, 12, 1536))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Space(blocks=(3, 8)), "blocks has 8, but the model has 6; accepted: 1 to 6"),
        (Space(channels=(2048,)), "channels has 2048, but the model has 1536"),
        (Space(width=(200,)), "width has 200, which none of 12 heads divides into heads of at most 32; accepted: 384, 372"),
        (Space(width=(192,), heads=(5,)), "heads has 5, into which no width of 192, 384 is divided"),
    ],
)  # fmt: skip
def test_sizes_that_the_model_does_not_hold_are_refused(space: Space, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        space.subnets(WHOLE)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_each_step_has_the_largest_the_smallest_and_others_each_once() -> None:
    sandwich = Sandwich(SPACE.subnets(WHOLE), num_drawn=2, seed=3)
    assert sandwich.roles == ("largest", "smallest", "drawn_1", "drawn_2")
    steps = [sandwich.at(step) for step in range(200)]
    for subnets in steps:
        assert subnets[:2] == (WHOLE, Subnet(3, 192, 6, 768)) and len(set(subnets)) == 4
    assert steps == [sandwich.at(step) for step in range(200)], "a resumed run draws the same"
    assert {subnet for subnets in steps for subnet in subnets} == set(SPACE.subnets(WHOLE)), "each has its turn"
    assert sandwich.at(None) == sandwich.at(None), "evaluations compare the same at every look"
    assert sandwich.at(5) != Sandwich(sandwich.subnets, 2, seed=4).at(5)


@pytest.mark.parametrize(("space", "roles"), [(Space(blocks=(3,)), 2), (Space(blocks=(2, 3)), 3), (Space(), 1)])
def test_a_small_space_has_no_more_roles_than_sub_networks(space: Space, roles: int) -> None:
    sandwich = Sandwich(space.subnets(WHOLE), num_drawn=2)
    assert len(sandwich.roles) == len(sandwich.at(0)) == roles


def test_small_ones_are_drawn_as_often_as_their_weight_says() -> None:
    """POA: the whole in every step, and one of the others, the fewest blocks and the least width three times as often as the most."""
    sandwich = Sandwich(Space(blocks=(2, 4), width=(192,)).subnets(WHOLE), 1, has_smallest=False, small_weight=3.0)
    assert sandwich.roles == ("largest", "drawn_1") and sandwich.ends == (WHOLE,)
    drawn = Counter(sandwich.at(step)[1] for step in range(3000))
    weights = {subnet: sandwich.weight(subnet) for subnet in sandwich.subnets if subnet != WHOLE}
    assert weights[Subnet(2, 192, 12, 1536)] == 9.0 and weights[Subnet(4, 384, 12, 1536)] == 2.0
    for subnet, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(drawn[subnet] / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5, (subnet, drawn)


COSTS = {Subnet(blocks, 384, 12, 1536): {"parameters": blocks / 8, "ms": 1 - blocks / 10} for blocks in range(1, 7)}


def test_a_budget_keeps_what_meets_it_and_says_the_nearest_where_nothing_does() -> None:
    assert {subnet.blocks for subnet in meeting(COSTS, {"parameters": 0.5})} == {1, 2, 3, 4}
    assert [subnet.blocks for subnet in meeting(COSTS, {"parameters": 0.5, "ms": 0.6})] == [4]
    with pytest.raises(ValueError) as refused:
        meeting(COSTS, {"parameters": 0.1})
    nearest = "the nearest is 1 blocks, width 384, 12 heads, 1536 channels with parameters 0.125"
    assert str(refused.value) == f"budget is parameters 0.1, which none of 6 sub-networks meets; {nearest}"
    with pytest.raises(ValueError, match="the nearest is 4 blocks"):
        meeting(COSTS, {"parameters": 0.45, "ms": 0.55})


def test_the_nearest_to_the_teacher_is_taken_and_of_equal_ones_the_smaller() -> None:
    subnets = list(COSTS)
    assert [subnet.blocks for subnet in largest(subnets, COSTS, 2)] == [6, 5]
    assert [subnet.blocks for subnet in spread(subnets, COSTS, 3)] == [1, 3, 6]
    candidates = [
        Candidate(subnet, COSTS[subnet], nats) for subnet, nats in zip(subnets, (3, 1, 2, 1, 4, 5), strict=True)
    ]
    assert best(candidates).subnet.blocks == 2
