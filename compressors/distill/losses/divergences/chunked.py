"""A loss over chunks of text instead of tokens, for a teacher with another tokenizer (ALM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Traits


@dataclass(frozen=True, kw_only=True)
class ChunkLikelihood:
    """tau KL(Bernoulli(e^(t/tau)) || Bernoulli(e^(s/tau))) of a chunk's log-likelihoods t of the teacher and s of the student, in nats.

    Zero where s = t and nowhere else. As tau grows it tends to (t - s) + t (log(-s) - log(-t)). Probabilities stay `epsilon` from 1.
    https://arxiv.org/abs/2503.20083 has the cross-entropy without the factor tau and without the teacher's entropy: the same
    gradient, tau times smaller.
    """

    tau: float = 100.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.tau <= 0 or not 0 < self.epsilon < 0.5:
            raise ValueError(f"tau and epsilon are {self.tau} and {self.epsilon}; accepted: above 0, and in (0, 0.5)")

    @property
    def traits(self) -> Traits:
        """What it is compared with lies in the data, not in a teacher source."""
        return Traits(needs_target=False)

    def __call__(self, teacher: Float[Tensor, "N"], student: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """Return the loss of each chunk."""
        t, s = (self._log_pair(logprobs.double()) for logprobs in (teacher, student))
        kl = t[0].exp() * (t[0] - s[0]) + t[1].exp() * (t[1] - s[1])
        return self.tau * kl

    def _log_pair(self, nats: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p and log(1 - p), p = e^(nats / tau)."""
        log_p = (nats / self.tau).clamp(max=torch.log1p(torch.tensor(-self.epsilon, dtype=nats.dtype)))
        return log_p, torch.log(-torch.expm1(log_p))
