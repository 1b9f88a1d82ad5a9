"""A loss over part of the vocabulary. Entries that are frequent, those that the batch holds, and a draw that stands for all others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from attar.compressors.models.head import Entries

# Of the entries that are asked for, this share is of the batch or drawn, the others are frequent.
OTHER_SHARE = 0.25


@dataclass(frozen=True)
class VocabularySample:
    """Chooses the `num_entries` over which distributions are compared: those that are frequent, the batch's own tokens, and a draw.

    A drawn entry stands for as many as were left out, so that sum_v w_v e^z_v estimates the whole softmax's denominator and
    sum_v w_v f(p_v, q_v) any f-divergence; both are exact when everything is drawn. https://arxiv.org/abs/1412.2007
    """

    is_frequent: Bool[Tensor, "V"]
    num_entries: int
    seed: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)

    @staticmethod
    def of(sequences: Iterable[Sequence[int]], *, num_entries: int, vocab_size: int, seed: int) -> VocabularySample:
        """Return the sample, its frequent entries by their count in token sequences."""
        seen = Counter(chain.from_iterable(sequences))
        counts = torch.tensor([seen[entry] for entry in range(vocab_size)])
        is_frequent = torch.zeros(vocab_size, dtype=torch.bool)
        # stable: of entries that are equally frequent the first, on every machine
        is_frequent[counts.argsort(descending=True, stable=True)[: round((1 - OTHER_SHARE) * num_entries)]] = True
        return VocabularySample(is_frequent, num_entries, seed)

    def at(self, step: int) -> VocabularySample:
        """Return the sample as a step draws from it, whichever steps were taken before."""
        return replace(self, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def entries(self, next_ids: Int[Tensor, "N"]) -> Entries:
        """Draw the entries of a batch whose tokens these are. Always as many, unless its own tokens leave nothing to draw.

        As many, because a CPU's products are planned anew for each shape.
        """
        is_kept = self.is_frequent.clone()
        is_kept[next_ids.cpu()] = True
        others = (~is_kept).nonzero().squeeze(-1)
        num_drawn = max(1, self.num_entries - int(is_kept.sum()))
        drawn = others[torch.randperm(len(others), generator=self.generator)[:num_drawn]]
        is_kept[drawn] = True
        shift = torch.zeros(len(is_kept))
        if len(drawn):  # else every entry is there, and each stands for itself
            shift[drawn] = math.log(len(others) / len(drawn))
        ids = is_kept.nonzero().squeeze(-1)
        return Entries(ids.to(next_ids.device), shift[ids].to(next_ids.device))
