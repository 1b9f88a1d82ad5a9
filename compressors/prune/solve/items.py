"""Candidates of a plan, each with what it loses and what it saves. What is left when several are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

# What a model costs and a budget can limit.
QUANTITIES = ("parameters", "bytes", "kv_bytes", "flops", "ms")
# What an item takes from: one block, every block in equal shares, something outside the blocks, or a share of all that is left.
Reach = Literal["block", "blocks", "whole", "share"]
ATTENTION, FEED_FORWARD = "attention", "feed_forward"
PARTS = (ATTENTION, FEED_FORWARD)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One candidate: what of which axis, what it loses by itself, and what it saves while all else stays.

    Of the items of one group a plan takes at most one; items of one block are a group. `block`: the block that it cuts, by reach "block".
    `parts`: which parts of its block go (reach "block"), or which part of every block it thins (reach "blocks"), so that nothing is
    saved twice. `enters` and `leaves`: what a chain of blocks carries over, 1 while an attention part waits for the feed-forward part of
    a later block (see `seams`), else 0.
    """

    axis: str
    where: str  # for people, such as "block 7" or "1,152 of 1,536 channels"
    loss_nats: float  # nats a token
    savings: Mapping[str, float]  # quantity -> what goes
    group: str = ""
    reach: Reach = "whole"
    amount: int = 0  # what the axis needs to carry it out: the block, or how many units stay
    block: int | None = None
    parts: tuple[str, ...] = ()
    enters: int = 0
    leaves: int = 0

    def saving(self, quantity: str) -> float:
        """Return what it saves of a quantity; 0 where nothing is told."""
        return self.savings.get(quantity, 0.0)


@dataclass(frozen=True)
class Problem:
    """A model's whole costs, by quantity, and the candidates that may be taken from them."""

    totals: Mapping[str, float]
    num_blocks: int
    items: Sequence[Item]

    def __post_init__(self) -> None:
        for item in self.items:
            if item.reach == "block" and not 0 <= (item.block if item.block is not None else -1) < self.num_blocks:
                raise ValueError(
                    f"{item.axis} {item.where}: its block is {item.block}, the model has {self.num_blocks} blocks"
                )

    def groups(self, *reaches: Reach) -> list[list[Item]]:
        """Return the items of some reaches, a list a group, in the order of first appearance."""
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            if item.reach in reaches:
                groups.setdefault(item.group or item.axis, []).append(item)
        return list(groups.values())

    def left(self, taken: Iterable[Item], quantity: str) -> float:
        """Return what is left of a quantity when these items are taken together.

        What every block saves alike is saved by the blocks that keep the part: each of them a share of 1 / number of blocks.
        """
        taken = list(taken)
        spread = [item for item in taken if item.reach == "blocks"]
        left = self.totals[quantity] - sum(item.saving(quantity) for item in taken if item.reach in ("block", "whole"))
        gone = list(chain.from_iterable(item.parts for item in taken if item.reach == "block"))
        for item in spread:
            share = sum(gone.count(part) for part in item.parts) / max(1, len(item.parts))
            left -= item.saving(quantity) * (1.0 - share / self.num_blocks)
        for item in taken:
            if item.reach == "share":
                left *= 1.0 - item.saving(quantity) / self.totals[quantity]
        return left


def scaled(problem: Problem, shares: Mapping[str, float]) -> Problem:
    """Return the problem with each axis' losses times its share: what a repair leaves of them."""
    items = [replace(item, loss_nats=item.loss_nats * shares.get(item.axis, 1.0)) for item in problem.items]
    return replace(problem, items=items)


@dataclass(frozen=True)
class Plan:
    """Items to take together, the sum of their losses in nats a token, and what is left of each quantity."""

    items: tuple[Item, ...]
    predicted_nats: float
    left: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(problem: Problem, items: Iterable[Item]) -> Plan:
        """Return the plan of some items, in the order of axes and blocks."""
        ordered = tuple(sorted(items, key=lambda item: (item.axis, item.block or 0, item.where)))
        left = {quantity: problem.left(ordered, quantity) for quantity in problem.totals}
        return Plan(ordered, sum(item.loss_nats for item in ordered), left)

    def amounts(self, axis: str) -> list[int]:
        """Return what is taken of an axis."""
        return [item.amount for item in self.items if item.axis == axis]

    def __str__(self) -> str:
        by_axis: dict[str, list[str]] = {}
        for item in self.items:
            by_axis.setdefault(item.axis, []).append(item.where)
        return "; ".join(f"{axis}: {', '.join(wheres)}" for axis, wheres in by_axis.items()) or "nothing"
