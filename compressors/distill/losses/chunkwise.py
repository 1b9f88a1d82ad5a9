"""The objective over chunks: its slope in the chunk's sum is taken first, so that the reduction may cut between a chunk's tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attar.compressors.distill.losses.divergences.chunked import ChunkLikelihood
from attar.compressors.distill.losses.token_stats import ListwiseTerms, TokenStats
from attar.compressors.distill.losses.views import Targets, ViewName
from attar.compressors.distill.losses.weights.token_weights import Statistic


@dataclass(frozen=True, kw_only=True)
class ChunkwiseDistil:
    """A loss over chunks of each sequence. It counts chunks: its tokens are the last of each."""

    divergence: ChunkLikelihood

    @property
    def views(self) -> frozenset[ViewName]:
        """Nobody: the teacher's likelihoods come with the data."""
        return frozenset()

    @property
    def uses_teacher(self) -> bool:
        return False

    @property
    def statistics(self) -> frozenset[Statistic]:
        """The log-probabilities of all tokens, before any gradient is taken."""
        return frozenset({"own_logprobs"})

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        assert targets.stats is not None, "asked for in `statistics`"
        terms = targets.stats.listwise[self]
        own = logprobs.gather(-1, targets.next_ids[:, None]).squeeze(-1)
        slope = terms.slopes[targets.tokens] * own
        # a token without slope may be counted nowhere and still must reach the sum: all speak, the count is the chunks'
        return slope - slope.detach() + terms.values[targets.tokens], terms.is_first[targets.tokens]


def chunk_terms(objective: ChunkwiseDistil, stats: TokenStats) -> ListwiseTerms:
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
            place = slice(start, start + chunks.ends[-1])
            sums = torch.zeros(len(ends), dtype=own.dtype, device=own.device).index_add(0, index, own[place])
            with torch.enable_grad():
                sums = sums.detach().requires_grad_()
                losses = objective.divergence(torch.tensor(chunks.teacher_nats, device=own.device), sums)
                (slope,) = torch.autograd.grad(losses.sum(), sums)
            slopes[place] = slope.to(own.dtype)[index]
            values[start + ends - 1] = losses.detach().to(own.dtype)
            is_last[start + ends - 1] = True
        start += count
    return ListwiseTerms(slopes, values, is_last)
