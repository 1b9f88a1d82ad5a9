"""A trial an axis: the share that a repair leaves, taken at the budget where the axis can meet it, and the plan that follows from it."""

from __future__ import annotations

import pytest

from attar.compressors.prune.solve.exact import solve
from attar.compressors.prune.solve.items import FEED_FORWARD, Item, Plan, Problem, scaled
from attar.compressors.prune.solve.trials import repair_shares

BLOCKS = [
    Item(
        axis="depth",
        where=f"block {index}",
        loss_nats=0.5,
        savings={"parameters": 10.0},
        reach="block",
        block=index,
        parts=("attention", FEED_FORWARD),
    )
    for index in range(4)
]
WIDTHS = [
    Item(
        axis="channels",
        where=f"{share}",
        loss_nats=share,
        savings={"parameters": 20 * share},
        reach="blocks",
        parts=(FEED_FORWARD,),
    )
    for share in (0.25, 0.5)
]
TOKENS = Item(axis="vocabulary", where="half", loss_nats=0.9, savings={"parameters": 10.0})
PROBLEM = Problem({"parameters": 60.0}, 4, [*BLOCKS, *WIDTHS, TOKENS])


def test_shares_are_measured_over_summed_losses_and_change_the_plan() -> None:
    tried: list[Plan] = []

    def trial(plan: Plan) -> float:
        tried.append(plan)
        return {"depth": 0.1, "channels": 0.4}[plan.items[0].axis]

    budget = {"parameters": 50.0}
    shares = repair_shares(PROBLEM, budget, trial)
    assert [len(plan.items) for plan in tried] == [1, 1]
    assert shares == {"depth": pytest.approx(0.2), "channels": pytest.approx(0.8)}
    plan = solve(scaled(PROBLEM, shares), budget)
    assert {item.axis for item in plan.items} == {"depth"} and plan.predicted_nats == pytest.approx(0.1)


def test_an_axis_that_cannot_meet_the_budget_is_tried_at_its_lightest_cut() -> None:
    tried: list[Plan] = []

    def trial(plan: Plan) -> float:
        tried.append(plan)
        return 0.05

    repair_shares(PROBLEM, {"parameters": 25.0}, trial)
    assert [plan.items[0].where for plan in tried if plan.items[0].axis == "channels"] == ["0.25"]


def test_an_axis_without_candidates_is_not_tried() -> None:
    assert repair_shares(Problem({"parameters": 60.0}, 4, [TOKENS]), {"parameters": 50.0}, lambda plan: 1.0) == {}
