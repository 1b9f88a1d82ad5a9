"""The sub-networks that an elastic network holds, and which of them a step trains.

Supernet and relations: AutoDistil, https://arxiv.org/abs/2201.12507. Largest, smallest and drawn ones in each step: the sandwich rule of
https://arxiv.org/abs/1903.05134.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch

# Between two seeds of a config: more steps than any training has. Evaluations, outside of the steps, draw as this step would.
STEPS_APART, NO_STEP = 7_368_787, 7_368_786
LARGEST, SMALLEST = "largest", "smallest"


@dataclass(frozen=True, order=True)
class Subnet:
    """The sizes of a sub-network: blocks, width of its states, heads and feed-forward channels of each block."""

    blocks: int
    width: int
    heads: int
    channels: int

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.width // self.heads

    def fits(self, whole: Subnet) -> bool:
        """Say whether its heads divide its width, and none is wider than the whole's. There is nothing to make more of."""
        return self.width % self.heads == 0 and self.head_width <= whole.head_width

    def __str__(self) -> str:
        return f"{self.blocks} blocks, width {self.width}, {self.heads} heads, {self.channels} channels"


@dataclass(frozen=True, kw_only=True)
class Space:
    """The sizes that are searched, axis by axis. The whole network's own stands in each; an empty axis has no other."""

    blocks: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """The axes that have sizes, by name."""
        return {axis.name: sizes for axis in fields(self) if (sizes := getattr(self, axis.name))}

    def subnets(self, whole: Subnet) -> tuple[Subnet, ...]:
        """Return all that fit, the whole first. Raises ValueError for a size above the whole's, and for one that fits nothing."""
        self.check(whole)
        sizes = [_with(getattr(self, axis.name), getattr(whole, axis.name)) for axis in fields(self)]
        every = (Subnet(*some) for some in itertools.product(*sizes))
        return tuple(sorted((subnet for subnet in every if subnet.fits(whole)), reverse=True))

    def check(self, whole: Subnet) -> None:
        """Raise ValueError for a size above the whole's, a width that no number of heads divides, and the reverse."""
        for name, sizes in self.axes.items():
            most = getattr(whole, name)
            if sizes[-1] > most:
                raise ValueError(f"{name} has {sizes[-1]}, but the model has {most}; accepted: 1 to {most}")
        heads = _with(self.heads, whole.heads)
        for width in self.width:
            if not any(Subnet(1, width, count, 1).fits(whole) for count in heads):
                raise ValueError(
                    f"width has {width}, which none of {_listed(heads)} heads divides into heads of at most {whole.head_width}; accepted: "
                    f"{_listed(_accepted(heads, whole))}"
                )
        for count in self.heads:
            widths = _with(self.width, whole.width)
            if not any(Subnet(1, width, count, 1).fits(whole) for width in widths):
                raise ValueError(
                    f"heads has {count}, into which no width of {_listed(widths)} is divided with at most {whole.head_width} numbers a head; "
                    f"accepted: numbers of heads that divide a width"
                )


@dataclass(frozen=True, kw_only=True)
class ElasticRule:
    """How sub-networks are trained. Those of `space`, so many drawn in a step, the whole with this share of the loss; 0: as the others.

    `has_smallest`: the smallest is in each step too. `small_weight`: so much likelier the fewest blocks, and the least width, are drawn than the
    whole's; those between evenly so. `order`: axes along which the most important comes first, from the start on.
    """

    space: Space
    num_drawn: int = 2
    whole_share: float = 0.0
    has_smallest: bool = True
    small_weight: float = 1.0
    order: tuple[str, ...] = ()

    def sandwich(self, whole: Subnet, seed: int) -> Sandwich:
        """Return which sub-networks of a model the steps train. Raises ValueError for sizes that it does not hold."""
        subnets = self.space.subnets(whole)
        return Sandwich(subnets, self.num_drawn, seed, self.has_smallest, self.small_weight)


@dataclass(frozen=True)
class Sandwich:
    """Which sub-networks a step trains. The largest, the smallest unless that is left to the draw, and some that are drawn anew.

    `subnets`: as `Space.subnets` gives them. Evaluations, which are no step, have their own draw, the same at every look.
    """

    subnets: tuple[Subnet, ...]
    num_drawn: int = 2
    seed: int = 0
    has_smallest: bool = True
    small_weight: float = 1.0

    @cached_property
    def smallest(self) -> Subnet:
        """The fewest blocks of the least width and channels."""
        return min(self.subnets, key=lambda subnet: (subnet.blocks, subnet.width, subnet.channels, subnet.heads))

    @cached_property
    def ends(self) -> tuple[Subnet, ...]:
        """Those of every step: the largest and, where it is, the smallest; of a single sub-network that."""
        return tuple(dict.fromkeys((self.subnets[0], self.smallest) if self.has_smallest else (self.subnets[0],)))

    @property
    def roles(self) -> tuple[str, ...]:
        """What the sub-networks of a step are called, in their order, in metrics too."""
        num_drawn = min(self.num_drawn, len(self.subnets) - len(self.ends))
        return (*(LARGEST, SMALLEST)[: len(self.ends)], *(f"drawn_{index + 1}" for index in range(num_drawn)))

    def at(self, step: int | None) -> tuple[Subnet, ...]:
        """Return the sub-networks of a step, each once."""
        num_drawn = len(self.roles) - len(self.ends)
        if not num_drawn:
            return self.ends
        between = [subnet for subnet in self.subnets if subnet not in self.ends]
        generator = torch.Generator().manual_seed(self.seed * STEPS_APART + (NO_STEP if step is None else step))
        weights = torch.tensor([self.weight(subnet) for subnet in between], dtype=torch.float64)
        drawn = torch.multinomial(weights, num_drawn, generator=generator).tolist()
        return (*self.ends, *(between[index] for index in drawn))

    def weight(self, subnet: Subnet) -> float:
        """Return how likely a sub-network is drawn. Linear from `small_weight` to 1 along its blocks, times the same along its width."""
        weight = 1.0
        for axis in ("blocks", "width"):
            sizes = sorted({getattr(some, axis) for some in self.subnets})
            share = sizes.index(getattr(subnet, axis)) / max(len(sizes) - 1, 1)
            weight *= self.small_weight + (1.0 - self.small_weight) * share
        return weight


def blocks_of(num_whole: int, num_blocks: int) -> list[int]:
    """Return which blocks a shallower sub-network has. They are evenly spread, from the first to the last; of a single block the first.

    floor(linspace(0, D - 1, d)), the rule of https://arxiv.org/abs/2408.01031.
    """
    return [index * (num_whole - 1) // max(num_blocks - 1, 1) for index in range(num_blocks)]


def _with(sizes: Sequence[int], whole: int) -> list[int]:
    return sorted({*sizes, whole})


def _accepted(heads: Sequence[int], whole: Subnet) -> list[int]:
    """Return the widths that some of these heads divide, the widest few first."""
    widths = [
        width for width in range(whole.width, 0, -1) if any(Subnet(1, width, count, 1).fits(whole) for count in heads)
    ]
    return widths[:8]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
