"""Losses per token, in nats. None of them averages: `reduction.py` does, once, for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Targets:
    """What each of N tokens should become: the next token, and what a teacher says in nats.

    A recorded teacher gives its top K candidates for the tokens it `has_teacher` for; a live one all of `teacher_full`.
    """

    next_ids: Int[Tensor, "N"]
    teacher_ids: Int[Tensor, "N K"] | None = None
    teacher_logprobs: Float[Tensor, "N K"] | None = None
    has_teacher: Bool[Tensor, "N"] | None = None
    teacher_full: Float[Tensor, "N V"] | None = None


class Objective(Protocol):
    """Maps the student's log-probabilities to (loss per token in nats, which tokens it speaks about)."""

    # True when it speaks only about tokens with a recorded teacher
    uses_teacher: ClassVar[bool]

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]: ...


@dataclass(frozen=True)
class NextToken:
    """Negative log-likelihood of the data's next token."""

    uses_teacher: ClassVar[bool] = False

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        loss = nn.functional.nll_loss(logprobs, targets.next_ids, reduction="none")
        return loss, torch.ones_like(loss, dtype=torch.bool)


@dataclass(frozen=True)
class ForwardKL:
    """KL(teacher || student): exact with a live teacher; with a recorded one over its top K and one bucket for the rest.

    sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest). Merging the rest into one bucket can only lower the KL
    (log-sum inequality), so this is a lower bound of the full one. https://arxiv.org/abs/1503.02531
    """

    uses_teacher: ClassVar[bool] = True

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        if targets.teacher_full is not None:
            full = targets.teacher_full
            return (full.exp() * (full - logprobs)).sum(dim=-1), torch.ones_like(targets.next_ids, dtype=torch.bool)
        if targets.teacher_ids is None or targets.teacher_logprobs is None or targets.has_teacher is None:
            return logprobs.new_zeros(len(logprobs)), torch.zeros(
                len(logprobs), dtype=torch.bool, device=logprobs.device
            )
        teacher = targets.teacher_logprobs.float()
        student = logprobs.gather(-1, targets.teacher_ids)
        divergence = (teacher.exp() * (teacher - student)).sum(dim=-1)
        if teacher.shape[-1] < logprobs.shape[-1]:
            teacher_rest, student_rest = log_remainder(teacher), log_remainder(student)
            divergence = divergence + teacher_rest.exp() * (teacher_rest - student_rest)
        return divergence * targets.has_teacher, targets.has_teacher


OBJECTIVES: dict[str, type[Objective]] = {"next_token": NextToken, "forward_kl": ForwardKL}


def log_remainder(logprobs: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Return log(1 - sum exp(logprobs)), at least about -16 nats: rounding may push the sum to one or beyond."""
    mass = logprobs.logsumexp(dim=-1).clamp(max=-1e-7)
    return torch.log(-torch.expm1(mass))
