"""Outputs of each teacher source for the same tokens, over the same outcomes. The vocabulary, or what a record keeps of it.

A recorded teacher names K candidates; everything else is one outcome, the rest. All sources are then read over those K + 1 outcomes,
which can only lower an f-divergence (data processing inequality): what comes out is a lower bound, exact at K = V.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.distill.losses.token_stats import TokenStats

ViewName = Literal["teacher", "past", "anchor", "labels"]
# log of no mass: exp gives exactly 0, and 0 times it is 0, where -inf would give nan
LOG_ZERO = -1e4


@dataclass(frozen=True)
class Targets:
    """What each of N tokens should become: the next token, and what others say of it in nats.

    A recorded teacher gives its top K candidates for the tokens it `has_teacher` for; live teacher sources all of `*_full`. `stats` is of the
    whole batch, `tokens` says which of its tokens these are.
    """

    next_ids: Int[Tensor, "N"]
    teacher_ids: Int[Tensor, "N K"] | None = None
    teacher_logprobs: Float[Tensor, "N K"] | None = None
    has_teacher: Bool[Tensor, "N"] | None = None
    teacher_full: Float[Tensor, "N V"] | None = None
    past_full: Float[Tensor, "N V"] | None = None
    anchor_full: Float[Tensor, "N V"] | None = None
    stats: TokenStats | None = None
    tokens: slice = field(default_factory=lambda: slice(None))

    def cut(self, tokens: slice) -> Targets:
        """Return those of some tokens. Outputs of live sources are not kept: the caller computes them for these tokens."""
        parts = (self.next_ids, self.teacher_ids, self.teacher_logprobs, self.has_teacher)
        cut = Targets(*(None if part is None else part[tokens] for part in parts))  # type: ignore[arg-type]
        return replace(cut, stats=self.stats, tokens=tokens)


@dataclass(frozen=True)
class TokenViews:
    """Some tokens of a batch: the student's log-probabilities in nats over the whole vocabulary, and what they should become."""

    logprobs: Float[Tensor, "N V"]
    targets: Targets


@dataclass(frozen=True)
class Views:
    """Log-probabilities in nats of N tokens over C outcomes, by teacher source; `next_outcomes`: where the next token lies among them."""

    student: Float[Tensor, "N C"]
    next_outcomes: Int[Tensor, "N"]
    teacher: Float[Tensor, "N C"] | None = None
    past: Float[Tensor, "N C"] | None = None
    anchor: Float[Tensor, "N C"] | None = None

    def of(self, name: ViewName) -> Float[Tensor, "N C"]:
        """Return the log-probabilities of one teacher source. `labels`: all mass on the next token. Raises ValueError when it is not there."""
        if name == "labels":
            silent = torch.full_like(self.student, LOG_ZERO, requires_grad=False)
            return silent.scatter_(-1, self.next_outcomes[:, None], 0.0)
        logprobs = getattr(self, name)
        if logprobs is None:
            raise ValueError(f"the objective reads {name!r}, but nothing stands behind it in this training")
        return logprobs

    def softened(self, temperature: float) -> Views:
        """Return them at a temperature: p^(1 / temperature) of each source, normalised. Labels stay all mass on one."""

        def soften(logprobs: Float[Tensor, "N C"] | None) -> Float[Tensor, "N C"] | None:
            return None if logprobs is None else (logprobs / temperature).log_softmax(dim=-1)

        others = (soften(self.teacher), soften(self.past), soften(self.anchor))
        return Views((self.student / temperature).log_softmax(dim=-1), self.next_outcomes, *others)


def views_of(
    logprobs: Float[Tensor, "N V"], targets: Targets, *, with_labels: bool, needs_whole: bool = False
) -> Views:
    """Return the views of these tokens: over the vocabulary with a live teacher or none, else over what was recorded.

    `with_labels`: the next token gets an outcome of its own. One that is no candidate is taken out of the rest; a recorded teacher is
    then taken to give it the mean of the rest, rest / (V - K). Raises ValueError where the whole distribution is needed and only
    candidates were recorded.
    """
    live = (targets.teacher_full, targets.past_full, targets.anchor_full)
    ids, recorded = targets.teacher_ids, targets.teacher_logprobs
    if targets.teacher_full is not None or ids is None or recorded is None:
        return Views(logprobs, targets.next_ids, *live)
    if ids.shape[-1] == logprobs.shape[-1]:
        whole = torch.full_like(logprobs, LOG_ZERO, requires_grad=False).scatter(
            -1, ids.long(), recorded.to(logprobs.dtype)
        )
        return Views(logprobs, targets.next_ids, whole, *live[1:])
    if needs_whole:
        raise ValueError(
            f"needs the teacher's whole distribution, but {ids.shape[-1]} of {logprobs.shape[-1]} tokens are recorded; use a live teacher"
        )
    fold = Outcomes.of(ids.long(), targets.next_ids, with_labels)
    others = [None if logprobs is None else fold.fold(logprobs) for logprobs in live[1:]]
    teacher = fold.fold_recorded(recorded.to(logprobs.dtype), num_others=logprobs.shape[-1] - ids.shape[-1])
    return Views(fold.fold(logprobs), fold.next_outcomes, teacher, *others)


@dataclass(frozen=True)
class Outcomes:
    """K candidates, the next token where it is none of them (`extra`), and the rest: the last outcome."""

    ids: Int[Tensor, "N K"]
    next_outcomes: Int[Tensor, "N"]
    next_ids: Int[Tensor, "N"]
    extra: Bool[Tensor, "N"] | None

    @staticmethod
    def of(ids: Int[Tensor, "N K"], next_ids: Int[Tensor, "N"], with_labels: bool) -> Outcomes:
        """Return the outcomes that recorded candidates leave."""
        matches = ids == next_ids[:, None]
        is_candidate = matches.any(dim=-1)
        outside = torch.full_like(next_ids, ids.shape[-1])  # the rest, or with labels the outcome of its own
        columns = torch.where(is_candidate, matches.int().argmax(dim=-1), outside)
        return Outcomes(ids, columns, next_ids, ~is_candidate if with_labels else None)

    def fold(self, logprobs: Float[Tensor, "N V"]) -> Float[Tensor, "N C"]:
        """Return a whole distribution over these outcomes."""
        folded = logprobs.gather(-1, self.ids)
        if self.extra is not None:
            own = logprobs.gather(-1, self.next_ids[:, None])
            folded = torch.cat([folded, own.masked_fill(~self.extra[:, None], LOG_ZERO)], dim=-1)
        return torch.cat([folded, log_remainder(folded)[:, None]], dim=-1)

    def fold_recorded(self, recorded: Float[Tensor, "N K"], num_others: int) -> Float[Tensor, "N C"]:
        """Return the recorded teacher over these outcomes."""
        rest = log_remainder(recorded)[:, None]
        if self.extra is None:
            return torch.cat([recorded, rest], dim=-1)
        share = torch.where(self.extra[:, None], 1.0 / num_others, 0.0)
        # at least one token keeps a mass: with a single other token, that token is the label and the rest is empty
        own = (rest + share.log()).clamp(min=LOG_ZERO)
        left = (rest + torch.log1p(-share)).clamp(min=LOG_ZERO)
        return torch.cat([recorded, own, left], dim=-1)


def log_remainder(logprobs: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Return log(1 - sum exp(logprobs)), at least about -16 nats: rounding may push the sum to one or beyond."""
    mass = logprobs.logsumexp(dim=-1).clamp(max=-1e-7)
    return torch.log(-torch.expm1(mass))
