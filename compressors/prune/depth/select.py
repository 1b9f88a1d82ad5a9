"""Choose the blocks to remove. The best window, or any blocks, so that enough is saved and the protected ones stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from attar.compressors.prune.depth.block_cost import Costs
from attar.compressors.prune.depth.scan import Scores


@dataclass(frozen=True)
class Saving:
    """What must be saved of one quantity: `of_block[i]` goes with block i, and at least `needed` must go."""

    quantity: str
    of_block: Sequence[float]
    needed: float

    @staticmethod
    def of_count(num_removed: int, num_blocks: int) -> Saving:
        """Demand that at least `num_removed` blocks go."""
        return Saving("blocks", [1.0] * num_blocks, num_removed)

    @staticmethod
    def of_quantity(quantity: str, costs: Costs, kept_fraction: float) -> Saving:
        """Demand that at most `kept_fraction` of the whole model's cost is left."""
        return Saving(quantity, costs.blocks, (1.0 - kept_fraction) * costs.total)

    def is_met(self, removed: Collection[int]) -> bool:
        """Tell whether removing these blocks saves enough; a billionth is forgiven to rounding."""
        return sum(self.of_block[index] for index in removed) >= self.needed * (1.0 - 1e-9)


def protected_blocks(num_blocks: int, protect_first: int, protect_last: int) -> frozenset[int]:
    """Return the first and last blocks that must stay. Raises ValueError when nothing is left to remove."""
    if protect_first + protect_last >= num_blocks:
        raise ValueError(
            f"protect_first {protect_first} and protect_last {protect_last} protect all {num_blocks} blocks; "
            f"accepted: together at most {num_blocks - 1}"
        )
    return frozenset([*range(protect_first), *range(num_blocks - protect_last, num_blocks)])


def check_can_be_met(savings: Sequence[Saving], protected: frozenset[int]) -> None:
    """Raise ValueError unless removing all blocks that may go, but one if none is protected, saves enough."""
    for saving in savings:
        free = [value for index, value in enumerate(saving.of_block) if index not in protected]
        most = sum(free) - (0.0 if protected else min(free))
        if most < saving.needed * (1.0 - 1e-9):
            raise ValueError(
                f"{saving.needed:.6g} {saving.quantity} must go, but at most {most:.6g} can: "
                f"{len(free)} of {len(saving.of_block)} blocks may be removed"
            )


def choose_window(scores: Scores, savings: Sequence[Saving], protected: frozenset[int] = frozenset()) -> list[int]:
    """Return the lowest-scoring window of the smallest size of which some window saves enough. Raises ValueError when none does."""
    check_can_be_met(savings, protected)
    num_blocks = len(savings[0].of_block)
    for size in range(1, num_blocks):
        windows = {first: range(first, first + size) for first in range(num_blocks - size + 1)}
        fitting = [
            first
            for first, window in windows.items()
            if protected.isdisjoint(window) and all(saving.is_met(window) for saving in savings)
        ]
        scored = [first for first in fitting if (first, size) in scores]
        if scored:
            return list(windows[min(scored, key=lambda first: (scores[first, size], first))])
        if fitting:
            sizes = sorted({size for _, size in scores})
            raise ValueError(f"windows of {size} blocks have no score that may be chosen; scored sizes: {sizes}")
    raise ValueError("no single window saves enough; choose blocks freely, or protect fewer")


def choose_free(scores: Scores, savings: Sequence[Saving], protected: frozenset[int] = frozenset()) -> list[int]:
    """Return blocks with a low sum of scores that save enough, lowest score for what it saves first. Raises ValueError if none do.

    With equal costs these are the lowest-scoring blocks, the optimum. Otherwise a block that turns out not to be needed is put back.
    """
    check_can_be_met(savings, protected)
    left = [first for first, size in scores if size == 1 and first not in protected]
    removed: list[int] = []
    while not all(saving.is_met(removed) for saving in savings):
        removed.append(min(left, key=lambda index: (scores[index, 1] / _gain(index, removed, savings), index)))
        left.remove(removed[-1])
    for index in sorted(removed, key=lambda index: -scores[index, 1]):
        others = [other for other in removed if other != index]
        if others and all(saving.is_met(others) for saving in savings):
            removed = others
    return sorted(removed)


def choose_in_order(
    order: Sequence[int], savings: Sequence[Saving], protected: frozenset[int] = frozenset()
) -> list[int]:
    """Return the beginning of a greedy order that saves enough. Raises ValueError when it is too short or removes a protected block."""
    check_can_be_met(savings, protected)
    for num_removed in range(1, len(order) + 1):
        block = order[num_removed - 1]
        if block in protected:
            raise ValueError(f"the greedy order removes block {block}, which is protected; protect it in the scan too")
        if all(saving.is_met(order[:num_removed]) for saving in savings):
            return sorted(order[:num_removed])
    raise ValueError(f"the greedy order ends after {len(order)} blocks, too few; raise num_greedy_steps of the scan")


def _gain(index: int, removed: Sequence[int], savings: Sequence[Saving]) -> float:
    """Return what a block adds to savings that are not yet met, each as a share of what is needed; never 0."""
    gain = 0.0
    for saving in savings:
        missing = saving.needed - sum(saving.of_block[other] for other in removed)
        gain += max(0.0, min(saving.of_block[index], missing)) / saving.needed
    return max(gain, 1e-12)
