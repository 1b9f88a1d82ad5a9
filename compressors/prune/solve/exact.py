"""The best plan under a budget, and the front of all budgets, by an exact dynamic program over non-dominated sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from attar.compressors.prune.solve.items import Item, Plan, Problem

# What is forgiven to rounding, relative to the model's whole cost.
TOLERANCE = 1e-9
# Items behind each other, the last one first: (item, those before it).
Path = tuple[Item, "Path"] | None  # type: ignore[misc]
# Whether an attention part waits for its feed-forward part, and whether any block stayed so far.
State = tuple[int, bool]


@dataclass(frozen=True)
class Front:
    """Non-dominated sums: losses ascending, savings with a column a quantity, and the items of each."""

    losses: np.ndarray
    savings: np.ndarray
    paths: Sequence[Path]

    def items(self, index: int) -> list[Item]:
        """Return the items of one sum."""
        taken: list[Item] = []
        path = self.paths[index]
        while path is not None:
            item, path = path
            taken.append(item)
        return taken


def solve(problem: Problem, budget: Mapping[str, float]) -> Plan:
    """Return the plan with the least sum of losses that leaves at most `budget` of each of its quantities.

    Exact for losses that add up: the optimum of brute force, by the dominance rule of Nemhauser and Ullmann for knapsacks
    (https://doi.org/10.1287/mnsc.15.9.494). Raises ValueError, with the nearest budget that can be met, when no plan does.
    """
    check_budget(problem, budget)
    best: tuple[float, list[Item]] | None = None
    can_only_lose = all(item.loss_nats >= 0 for item in problem.items)
    for setting in _settings(problem):
        lost = sum(item.loss_nats for item in setting)
        if best is not None and can_only_lose and lost >= best[0]:
            continue
        needed = _needed(problem, setting, budget)
        bound = best[0] - lost if best is not None and can_only_lose else np.inf
        front = _front(problem, setting, list(budget), needed, bound)
        fitting = np.flatnonzero((front.savings >= needed).all(axis=1))
        if len(fitting) and (best is None or front.losses[fitting[0]] + lost < best[0]):
            best = float(front.losses[fitting[0]] + lost), [*setting, *front.items(int(fitting[0]))]
    if best is None:
        raise ValueError(_nearest(problem, budget))
    return Plan.of(problem, best[1])


def pareto(problem: Problem, quantity: str) -> list[Plan]:
    """Return every plan that no other beats both in loss and in what it leaves of a quantity. Losses ascend."""
    points: list[tuple[float, float, list[Item], Front, int]] = []
    fronts: dict[tuple[int, ...], Front] = {}
    for setting in _settings(problem):
        # what takes a share of all that is left leaves the sums over blocks as they are: they are walked once
        spread = tuple(id(item) for item in setting if item.reach == "blocks")
        front = fronts.get(spread) or fronts.setdefault(spread, _front(problem, setting, [quantity], None))
        lost = sum(item.loss_nats for item in setting)
        kept_share = _kept_share(problem, setting, quantity)
        for index, saved in enumerate(front.savings[:, 0]):
            left = kept_share * (problem.totals[quantity] - _spread(setting, quantity) - float(saved))
            points.append((float(front.losses[index]) + lost, left, setting, front, index))
    plans: list[Plan] = []
    least = float("inf")
    for _, left, setting, front, index in sorted(points, key=lambda point: point[:2]):
        if left < least - TOLERANCE * problem.totals[quantity]:
            least = left
            plans.append(Plan.of(problem, [*setting, *front.items(index)]))
    return plans


def check_budget(problem: Problem, budget: Mapping[str, float]) -> None:
    """Raise ValueError for an empty budget, or one of a quantity that was not measured."""
    accepted = f"accepted: one or more of {', '.join(problem.totals)}"
    if not budget:
        raise ValueError(f"budget is empty; {accepted}")
    for quantity in budget:
        if quantity not in problem.totals:
            raise ValueError(f"budget names {quantity}, which was not measured; {accepted}")


def non_dominated(losses: np.ndarray, savings: np.ndarray) -> np.ndarray:
    """Return the indices of the sums that no other equals or beats in loss and in every saving, losses ascending.

    Of equal ones the first stays.
    """
    order = np.lexsort((*(-savings.T[::-1]), losses))
    if savings.shape[1] == 1:  # what saves no more than something that loses less goes
        most = np.maximum.accumulate(savings[order, 0])
        return order[savings[order, 0] > np.concatenate([[-np.inf], most[:-1]])]
    keep: list[int] = []
    for index in order:
        if not keep or not (savings[keep] >= savings[index]).all(axis=1).any():
            keep.append(int(index))
    return np.asarray(keep, dtype=int)


def _settings(problem: Problem) -> Iterator[list[Item]]:
    """Yield every choice of what changes the costs of all blocks, the lightest losses first."""
    groups = problem.groups("blocks", "share")
    chosen = product(*([None, *group] for group in groups))
    settings = [[item for item in choice if item is not None] for choice in chosen]
    yield from sorted(settings, key=lambda setting: sum(item.loss_nats for item in setting))


def _front(
    problem: Problem,
    setting: Sequence[Item],
    quantities: Sequence[str],
    needed: np.ndarray | None,
    bound: float = np.inf,
) -> Front:
    """Return the non-dominated sums over blocks and over what lies outside them, under one setting.

    `needed`: savings beyond which more is no better. `bound`: losses from which on a sum is of no use.
    """
    states: dict[State, Front] = {(0, False): Front(np.zeros(1), np.zeros((1, len(quantities))), [None])}
    by_block: list[list[Item | None]] = [[None] for _ in range(problem.num_blocks)]
    for item in problem.items:
        if item.reach == "block":
            assert item.block is not None, "the problem checks it"
            by_block[item.block].append(item)
    for choices in by_block:
        states = _advanced(states, choices, _savings(problem, setting, choices, quantities), needed, bound)
    front = states[0, True]  # keeping every block is always a way to it
    for group in problem.groups("whole"):
        choices = [None, *group]
        savings = _savings(problem, setting, choices, quantities)
        front = _advanced({(0, True): front}, choices, savings, needed, bound)[0, True]
    return front


def _advanced(
    states: Mapping[State, Front],
    choices: Sequence[Item | None],
    savings: np.ndarray,
    needed: np.ndarray | None,
    bound: float,
) -> dict[State, Front]:
    """Return the states after one group of exclusive choices, None for the choice to take nothing."""
    ways: dict[State, list[tuple[Front, Item | None, np.ndarray]]] = {}
    for (waiting, any_kept), front in states.items():
        for item, saved in zip(choices, savings, strict=True):
            enters, leaves = (item.enters, item.leaves) if item is not None else (0, 0)
            if enters == waiting:
                stays = any_kept or item is None or len(item.parts) == 1
                ways.setdefault((leaves, stays), []).append((front, item, saved))
    return {state: _merged(reached, needed, bound) for state, reached in ways.items()}


def _merged(ways: Sequence[tuple[Front, Item | None, np.ndarray]], needed: np.ndarray | None, bound: float) -> Front:
    losses = np.concatenate([front.losses + (item.loss_nats if item else 0.0) for front, item, _ in ways])
    savings = np.concatenate([front.savings + saved for front, _, saved in ways])
    if needed is not None:
        savings = np.minimum(savings, needed)  # more than enough is enough: fewer sums stay apart
    paths = [(item, path) if item else path for front, item, _ in ways for path in front.paths]
    keep = non_dominated(losses, savings)
    keep = keep[losses[keep] < bound]
    return Front(losses[keep], savings[keep], [paths[index] for index in keep])


def _savings(
    problem: Problem, setting: Sequence[Item], choices: Sequence[Item | None], quantities: Sequence[str]
) -> np.ndarray:
    """Return what each choice saves beside the setting: a part that is gone cannot be thinned any more."""
    savings = np.zeros((len(choices), len(quantities)))
    for row, item in enumerate(choices):
        for column, quantity in enumerate(quantities):
            if item is not None:
                savings[row, column] = item.saving(quantity) - sum(
                    spread.saving(quantity) * len({*spread.parts} & {*item.parts}) / len(spread.parts)
                    for spread in setting
                    if spread.reach == "blocks" and item.reach == "block"
                ) / max(1, problem.num_blocks)
    return savings


def _needed(problem: Problem, setting: Sequence[Item], budget: Mapping[str, float]) -> np.ndarray:
    """Return what must still be saved of each quantity beside a setting."""
    return np.asarray(
        [
            problem.totals[quantity] * (1.0 - TOLERANCE)
            - _spread(setting, quantity)
            - most / _kept_share(problem, setting, quantity)
            for quantity, most in budget.items()
        ]
    )


def _spread(setting: Sequence[Item], quantity: str) -> float:
    return sum(item.saving(quantity) for item in setting if item.reach == "blocks")


def _kept_share(problem: Problem, setting: Sequence[Item], quantity: str) -> float:
    share = 1.0
    for item in setting:
        if item.reach == "share":
            share *= 1.0 - item.saving(quantity) / problem.totals[quantity]
    return share


def _nearest(problem: Problem, budget: Mapping[str, float]) -> str:
    """Say the nearest budget that can be met: the least of each quantity, with the others held where that is possible."""
    reachable = []
    for quantity, most in budget.items():
        others = {name: value for name, value in budget.items() if name != quantity}
        least = _least(problem, quantity, others)
        if least is None:
            reachable.append(f"{quantity} {_least(problem, quantity, {}):.6g} at the least, the others left aside")
        elif least > most:
            held = f" beside {' and '.join(f'{name} {value:.6g}' for name, value in others.items())}" if others else ""
            reachable.append(f"{quantity} {least:.6g} at the least{held}")
    wanted = ", ".join(f"{quantity} {most:.6g}" for quantity, most in budget.items())
    return f"no plan meets the budget {wanted}; the nearest that can be met: {'; '.join(reachable)}"


def _least(problem: Problem, quantity: str, others: Mapping[str, float]) -> float | None:
    """Return the least that any plan leaves of a quantity while others stay within theirs. None: no plan does."""
    least: float | None = None
    for setting in _settings(problem):
        needed = np.append(_needed(problem, setting, others), np.inf)
        front = _front(problem, setting, [*others, quantity], needed)
        fits = (front.savings[:, :-1] >= needed[:-1]).all(axis=1)
        if fits.any():
            rest = problem.totals[quantity] - _spread(setting, quantity) - float(front.savings[fits, -1].max())
            left = rest * _kept_share(problem, setting, quantity)
            least = left if least is None else min(least, left)
    return least
