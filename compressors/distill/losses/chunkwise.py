"""The objective over chunks. Its slope in the chunk's sum is taken first, so that the reduction may cut between a chunk's tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.divergences.chunked import ChunkLikelihood
from attar.compressors.distill.losses.listwise import sloped_terms
from attar.compressors.distill.losses.objective import Requires, Terms
from attar.compressors.distill.losses.token_stats import ListwiseTerms, TokenStats
from attar.compressors.distill.losses.views import TokenViews, ViewName


@dataclass(frozen=True, kw_only=True)
class ChunkwiseDistil:
    """A loss over chunks of each sequence. It counts chunks: its value stands at the last token of each."""

    divergence: ChunkLikelihood

    @property
    def anchor(self) -> None:
        """None: the teacher's likelihoods come with the data."""

    @property
    def requires(self) -> Requires:
        return Requires(facts=frozenset({"chunks"}), statistics=frozenset({"own_logprobs"}), slopes=self)

    def num_terms(self, batch: Batch) -> int:
        return sum(len(facts.chunks.ends) for facts in batch.facts if facts.chunks is not None)

    def terms(self, views: TokenViews) -> Terms:
        return sloped_terms(self, views)

    def held_out(self, moving: Collection[ViewName]) -> ChunkwiseDistil:
        return self

    def slopes(self, stats: TokenStats, anchor: Float[Tensor, "N"] | None) -> ListwiseTerms:
        """Return each chunk's loss at its last token, and its slope in the log-probability of each of its tokens."""
        assert stats.own_logprobs is not None, "asked for in `statistics`"
        own = stats.own_logprobs
        slopes, values = torch.zeros_like(own), torch.zeros_like(own)
        is_last = torch.zeros_like(own, dtype=torch.bool)
        start = 0
        counts = torch.bincount(stats.sequences, minlength=len(stats.samples)).tolist()
        for sample, count in zip(stats.samples, counts, strict=True):
            chunks = sample.chunks
            if chunks is not None and chunks.ends:
                ends = torch.tensor(chunks.ends, device=own.device)
                index = torch.bucketize(torch.arange(chunks.ends[-1], device=own.device), ends, right=True)
                span = slice(start, start + chunks.ends[-1])
                sums = torch.zeros(len(ends), dtype=own.dtype, device=own.device).index_add(0, index, own[span])
                with torch.enable_grad():
                    sums = sums.detach().requires_grad_()
                    losses = self.divergence(torch.tensor(chunks.teacher_nats, device=own.device), sums)
                    (slope,) = torch.autograd.grad(losses.sum(), sums)
                slopes[span] = slope.to(own.dtype)[index]
                values[start + ends - 1] = losses.detach().to(own.dtype)
                is_last[start + ends - 1] = True
            start += count
        return ListwiseTerms(slopes, values, is_last)
