"""Keep the largest numbers of a tensor that is read in chunks. The exact cut from two passes that count, without sorting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# The bits of |x| in float32 grow with |x|: their upper 16 of 31 choose a bin, their lower 15 a number in it.
LOW_BITS = 15
NUM_BINS, NUM_LOW = 1 << 16, 1 << LOW_BITS


@dataclass(frozen=True)
class Cut:
    """What stays of one model's tensor: magnitudes whose bits exceed `bits`, and the first `num_ties` of those that equal them."""

    bits: int
    num_ties: int


def magnitude_cuts(rows: Sequence[Iterator[Float[Tensor, "M C"]]], num_kept: Sequence[int]) -> list[Cut]:
    """Return the cut of each model that leaves it exactly its `num_kept` largest magnitudes; of equal ones the first stay.

    `rows` are two readings of the same chunks.
    """
    counts = torch.zeros(len(num_kept), NUM_BINS, dtype=torch.long)
    for chunk in rows[0]:
        for count, bits in zip(counts, _bits(chunk), strict=True):
            count.add_(torch.bincount(bits >> LOW_BITS, minlength=NUM_BINS))
    bins = [_last_within(count, num_kept_values) for count, num_kept_values in zip(counts, num_kept, strict=True)]
    low_counts = torch.zeros(len(num_kept), NUM_LOW, dtype=torch.long)
    for chunk in rows[1]:
        for count, bits, (chosen, _) in zip(low_counts, _bits(chunk), bins, strict=True):
            inside = bits[(bits >> LOW_BITS) == chosen]
            count.add_(torch.bincount(inside & (NUM_LOW - 1), minlength=NUM_LOW))
    cuts = []
    for count, (chosen, left) in zip(low_counts, bins, strict=True):
        low, num_ties = _last_within(count, left)
        cuts.append(Cut((chosen << LOW_BITS) | low, num_ties))
    return cuts


class Trimmer:
    """Marks what stays of each model, chunk after chunk in order."""

    def __init__(self, cuts: list[Cut]) -> None:
        self._cuts = cuts
        self._num_ties_left = [cut.num_ties for cut in cuts]

    def mask(self, chunk: Float[Tensor, "M C"]) -> Bool[Tensor, "M C"]:
        """Return True where a number stays."""
        masks = []
        for index, (bits, cut) in enumerate(zip(_bits(chunk), self._cuts, strict=True)):
            ties = bits == cut.bits
            within = ties & (ties.cumsum(dim=0) <= self._num_ties_left[index])
            self._num_ties_left[index] -= int(within.sum())
            masks.append((bits > cut.bits) | within)
        return torch.stack(masks)


def _bits(chunk: Float[Tensor, "M C"]) -> Tensor:
    return chunk.abs().view(torch.int32)


def _last_within(counts: Tensor, num_kept: int) -> tuple[int, int]:
    """Return the highest bin down to which `num_kept` numbers lie, and how many of that bin are among them."""
    from_top = counts.flip(0).cumsum(dim=0)
    index = int(torch.searchsorted(from_top, num_kept))
    above = int(from_top[index - 1]) if index else 0
    return len(counts) - 1 - index, num_kept - above
