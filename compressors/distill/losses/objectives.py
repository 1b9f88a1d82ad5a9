"""The plain objectives, each by its own name; what is composed of plugs is in `composite.py`. None averages: `reduction.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences import kullback
from attar.compressors.distill.losses.views import Targets, log_remainder

__all__ = ["OBJECTIVES", "ForwardKL", "NextToken", "Objective", "Targets", "log_remainder"]


class Objective(Protocol):
    """Maps the student's log-probabilities to (loss per token in nats, zero where it says nothing; which tokens it speaks about)."""

    @property
    def uses_teacher(self) -> bool:
        """True when it speaks only about tokens with a recorded teacher."""
        ...

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]: ...


@dataclass(frozen=True)
class NextToken:
    """Negative log-likelihood of the data's next token."""

    @property
    def uses_teacher(self) -> bool:
        return False

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

    @property
    def uses_teacher(self) -> bool:
        return True

    def __call__(
        self, logprobs: Float[Tensor, "N V"], targets: Targets
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        return _FORWARD_KL(logprobs, targets)


_FORWARD_KL = Distil(divergence=kullback.ForwardKL())

OBJECTIVES: dict[str, type[Objective]] = {"next_token": NextToken, "forward_kl": ForwardKL}
