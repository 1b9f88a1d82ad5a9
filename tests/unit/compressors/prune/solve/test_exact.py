"""The solve gives the optimum of brute force and of scipy's MILP, its front is every budget's best, and what cannot be met is refused."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from attar.compressors.prune.solve.exact import pareto, solve
from attar.compressors.prune.solve.items import ATTENTION, FEED_FORWARD, PARTS, Item, Problem


def block_item(index: int, loss: float, saved: dict[str, float], *, axis: str = "depth", **other) -> Item:
    parts = other.pop("parts", PARTS)
    return Item(
        axis=axis,
        where=f"block {index}",
        loss_nats=loss,
        savings=saved,
        reach="block",
        group=f"block {index}",
        block=index,
        amount=index,
        parts=parts,
        **other,
    )


def random_problem(seed: int, *, has_seams: bool = True, has_spread: bool = True) -> Problem:
    draw = random.Random(seed)
    num_blocks = 5
    attention, forward = ([draw.uniform(1, 3) for _ in range(num_blocks)] for _ in range(2))
    items = [
        block_item(
            index,
            draw.uniform(0.1, 1),
            {"parameters": attention[index] + forward[index], "kv_bytes": attention[index]},
        )
        for index in range(num_blocks)
    ]
    for index in range(num_blocks - 1) if has_seams else ():
        items += [
            block_item(
                index,
                draw.uniform(0.1, 1),
                {"parameters": forward[index]},
                axis="seams",
                parts=(FEED_FORWARD,),
                leaves=1,
            ),
            block_item(
                index + 1,
                0.0,
                {"parameters": attention[index + 1], "kv_bytes": attention[index + 1]},
                axis="seam_ends",
                parts=(ATTENTION,),
                enters=1,
            ),
        ]
    for name, part, costs in (("channels", FEED_FORWARD, forward), ("groups", ATTENTION, attention)):
        for share in (0.25, 0.5) if has_spread else ():
            saved = {"parameters": share * sum(costs)}
            saved |= {"kv_bytes": share * sum(costs)} if part == ATTENTION else {}
            items.append(
                Item(
                    axis=name,
                    where=f"{share}",
                    loss_nats=draw.uniform(0.1, 1) * share,
                    savings=saved,
                    reach="blocks",
                    parts=(part,),
                )
            )
    for share in (0.3, 0.6):
        items.append(
            Item(
                axis="vocabulary",
                where=f"{share}",
                loss_nats=draw.uniform(0.1, 1) * share,
                savings={"parameters": 6 * share},
            )
        )
    if has_spread:
        whole = sum(attention) + sum(forward) + 6
        items.append(Item(axis="bits", where="8", loss_nats=0.2, savings={"parameters": 0.1 * whole}, reach="share"))
    totals = {"parameters": sum(attention) + sum(forward) + 6, "kv_bytes": sum(attention)}
    return Problem(totals, num_blocks, items)


def every_plan(problem: Problem) -> list[tuple[Item, ...]]:
    """Every choice of at most one item a group that leaves whole blocks, at least one of them."""
    groups = problem.groups("block", "blocks", "whole", "share")
    plans = []
    for choice in itertools.product(*([None, *group] for group in groups)):
        taken = [item for item in choice if item is not None]
        by_block = {item.block: item for item in taken if item.reach == "block"}
        waiting, num_whole, fits = 0, 0, True
        for index in range(problem.num_blocks):
            item = by_block.get(index)
            enters, leaves = (item.enters, item.leaves) if item else (0, 0)
            fits &= enters == waiting
            waiting = leaves
            num_whole += item is None or len(item.parts) == 1
        if fits and not waiting and num_whole:
            plans.append(tuple(taken))
    return plans


@pytest.mark.parametrize("seed", range(6))
def test_solve_gives_the_optimum_of_brute_force(seed: int) -> None:
    problem = random_problem(seed)
    plans = [
        (sum(item.loss_nats for item in taken), problem.left(taken, "parameters"), problem.left(taken, "kv_bytes"))
        for taken in every_plan(problem)
    ]
    for share, other in ((0.9, None), (0.7, None), (0.5, 0.8), (0.3, 0.6)):
        budget = {"parameters": share * problem.totals["parameters"]}
        if other:
            budget["kv_bytes"] = other * problem.totals["kv_bytes"]
        best = min(
            loss
            for loss, parameters, cached in plans
            if parameters <= budget["parameters"] and cached <= budget.get("kv_bytes", np.inf)
        )
        plan = solve(problem, budget)
        assert plan.predicted_nats == pytest.approx(best, abs=1e-12)
        assert all(plan.left[name] <= most * (1 + 1e-9) for name, most in budget.items())


@pytest.mark.parametrize("seed", range(3))
def test_the_front_holds_the_best_plan_of_every_budget(seed: int) -> None:
    problem = random_problem(seed)
    plans = [
        (sum(item.loss_nats for item in taken), problem.left(taken, "parameters")) for taken in every_plan(problem)
    ]
    front = pareto(problem, "parameters")
    assert front[0].predicted_nats == 0.0 and front[0].items == ()
    losses, lefts = ([plan.predicted_nats for plan in front], [plan.left["parameters"] for plan in front])
    assert losses == sorted(losses) and lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == pytest.approx(min(left for _, left in plans))
    for budget in np.linspace(lefts[-1], lefts[0], 23):
        best = min(loss for loss, left in plans if left <= budget + 1e-9)
        on_front = min(loss for loss, left in zip(losses, lefts, strict=True) if left <= budget + 1e-9)
        assert on_front == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_scipy_finds_no_better_plan_of_thirty_blocks(seed: int) -> None:
    draw = random.Random(seed)
    items = [block_item(index, draw.random(), {"parameters": draw.uniform(1, 2)}) for index in range(30)]
    items += [
        Item(axis="vocabulary", where=str(share), loss_nats=draw.random() * share, savings={"parameters": 8 * share})
        for share in (0.2, 0.4, 0.6)
    ]
    problem = Problem({"parameters": 60.0}, 30, items)
    budget = 60.0 - 0.4 * sum(item.saving("parameters") for item in items[:30])
    saved = np.array([[item.saving("parameters") for item in items]])
    alone = np.zeros((1, len(items)))
    alone[0, 30:] = 1
    peer = milp(
        np.array([item.loss_nats for item in items]),
        constraints=[LinearConstraint(saved, lb=60.0 - budget), LinearConstraint(alone, ub=1)],
        integrality=np.ones(len(items)),
        bounds=Bounds(0, 1),
    )
    assert solve(problem, {"parameters": budget}).predicted_nats == pytest.approx(peer.fun, abs=1e-6)


def test_a_budget_that_nothing_meets_names_the_nearest() -> None:
    problem = random_problem(0)
    least = pareto(problem, "parameters")[-1].left["parameters"]
    with pytest.raises(ValueError, match=f"nearest that can be met: parameters {least:.6g} at the least"):
        solve(problem, {"parameters": 0.9 * least})
    plan = solve(problem, {"parameters": least * (1 + 1e-6)})
    assert plan.left["parameters"] == pytest.approx(least)


def test_budgets_that_exclude_each_other_are_told_beside_each_other() -> None:
    thin = Item(axis="channels", where="half", loss_nats=0.1, savings={"parameters": 4.0}, group="width")
    fast = Item(axis="groups", where="half", loss_nats=0.1, savings={"kv_bytes": 4.0}, group="width")
    problem = Problem({"parameters": 10.0, "kv_bytes": 10.0}, 1, [thin, fast])
    with pytest.raises(ValueError, match="parameters 10 at the least beside kv_bytes 6") as error:
        solve(problem, {"parameters": 6.0, "kv_bytes": 6.0})
    assert "kv_bytes 10 at the least beside parameters 6" in str(error.value)


@pytest.mark.parametrize(
    ("budget", "message"), [({}, "budget is empty"), ({"watts": 1.0}, "budget names watts, which was not measured")]
)
def test_a_budget_of_nothing_known_is_refused(budget: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(random_problem(0), budget)


def test_what_every_block_saves_is_saved_by_the_blocks_that_stay() -> None:
    channels = Item(
        axis="channels", where="half", loss_nats=0.1, savings={"parameters": 8.0}, reach="blocks", parts=(FEED_FORWARD,)
    )
    block = block_item(0, 0.1, {"parameters": 6.0})
    problem = Problem({"parameters": 30.0}, 4, [channels, block])
    assert problem.left([channels, block], "parameters") == 30.0 - 6.0 - 8.0 * 3 / 4
    end = block_item(1, 0.0, {"parameters": 2.0}, parts=(ATTENTION,))
    assert problem.left([channels, end], "parameters") == 30.0 - 2.0 - 8.0
    plan = solve(problem, {"parameters": 18.0})
    assert plan.left["parameters"] == 18.0 and len(plan.items) == 2


def test_an_item_of_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="its block is 4, the model has 2 blocks"):
        Problem({"parameters": 1.0}, 2, [block_item(4, 0.1, {})])
