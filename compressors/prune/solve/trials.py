"""Try one repaired plan of each axis. An axis that repairs well is then not priced by its bare cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attar.compressors.prune.solve.exact import pareto, solve
from attar.compressors.prune.solve.items import Plan, Problem

# Axes that are repaired alike, each group tried once; the second name of a seam carries no loss of its own.
TRIED_TOGETHER = (("depth", "seams", "seam_ends"), ("channels",), ("groups",), ("hidden",), ("rotated",))


def repair_shares(problem: Problem, budget: Mapping[str, float], trial: Callable[[Plan], float]) -> dict[str, float]:
    """Return for each axis that a repair touches what one repaired plan loses, as a share of its summed losses.

    `trial` cuts, repairs and measures a plan, in nats a token. The plan is the axis' best at the budget, or its lightest cut where the
    axis alone cannot meet that. Measured at the budget, the share also holds what losses of one axis do together.
    """
    shares: dict[str, float] = {}
    for axes in TRIED_TOGETHER:
        alone = Problem(problem.totals, problem.num_blocks, [item for item in problem.items if item.axis in axes])
        plan = _tried(alone, budget) if alone.items else None
        if plan is not None and plan.predicted_nats > 0:
            share = max(0.0, trial(plan)) / plan.predicted_nats
            shares |= {axis: share for axis in axes if any(item.axis == axis for item in alone.items)}
    return shares


def _tried(problem: Problem, budget: Mapping[str, float]) -> Plan | None:
    try:
        return solve(problem, budget)
    except ValueError:  # not this axis alone
        plans = pareto(problem, next(iter(budget)))
        return plans[1] if len(plans) > 1 else None
