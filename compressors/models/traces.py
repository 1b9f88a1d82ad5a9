"""Continuations while they grow: their tokens, how likely each was, and what was recorded beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.sampling import Generation


@dataclass(frozen=True)
class Scores:
    """Of one pass: log-probabilities of the tokens that are written, and the recorded candidates."""

    chosen: list[float]
    top_ids: Int[Tensor, "B K"] | None
    top_logprobs: Float[Tensor, "B K"] | None

    @classmethod
    def of(
        cls, logits: Float[Tensor, "N V"], chosen: Int[Tensor, "N"], written: list[int], num_recorded: int
    ) -> Scores:
        """Normalise without writing a vocabulary of log-probabilities: a logit minus the log of the sum of exponentials."""
        if len(written) < len(logits):
            rows = torch.tensor(written, device=logits.device)
            logits, chosen = logits[rows], chosen[rows]
        logits = logits.float()
        log_total = logits.logsumexp(dim=-1, keepdim=True)
        own = (logits.gather(-1, chosen[:, None]) - log_total).squeeze(-1).tolist()
        if not num_recorded:
            return cls(own, None, None)
        values, ids = logits.topk(min(num_recorded, logits.shape[-1]), dim=-1)
        return cls(own, ids.cpu(), (values - log_total).cpu())


@dataclass
class Trace:
    """One prompt's continuation while it grows."""

    token_ids: list[int] = field(default_factory=list)
    is_finished: bool = False
    uniforms: Float[Tensor, "T"] | None = None
    num_drafted: int = 0
    num_accepted: int = 0
    _logprobs: list[float] = field(default_factory=list)
    _top_ids: list[Int[Tensor, "T K"]] = field(default_factory=list)
    _top_logprobs: list[Float[Tensor, "T K"]] = field(default_factory=list)

    def extend(self, tokens: Sequence[int], start: int, scores: Scores | None, *, is_last: bool) -> None:
        """Take the tokens that were drawn in this row; their scores are those from `start` on."""
        self.token_ids += tokens
        self.is_finished = is_last
        if scores is not None:
            its = slice(start, start + len(tokens))
            self._logprobs += scores.chosen[its]
            if scores.top_ids is not None and scores.top_logprobs is not None:
                self._top_ids.append(scores.top_ids[its])
                self._top_logprobs.append(scores.top_logprobs[its])

    def count(self, draft: Sequence[int], written: Sequence[int]) -> None:
        """Count what was drafted, and what of it stayed."""
        self.num_drafted += len(draft)
        self.num_accepted += num_right(draft, written)

    def generation(self) -> Generation:
        """Return what was written."""
        return Generation(
            token_ids=self.token_ids,
            is_finished=self.is_finished,
            logprob_nats=math.fsum(self._logprobs) if self._logprobs else None,
            top_ids=torch.cat(self._top_ids) if self._top_ids else None,
            top_logprobs=torch.cat(self._top_logprobs) if self._top_logprobs else None,
            token_logprobs=tuple(self._logprobs),
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )


def num_right(draft: Sequence[int], written: Sequence[int]) -> int:
    """Return how many drafted tokens were drawn too. Only the last written token can differ from its draft."""
    return sum(drafted == token for drafted, token in zip(draft, written, strict=False))
