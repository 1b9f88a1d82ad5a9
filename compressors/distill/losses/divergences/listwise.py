"""A loss over the sequences of one prompt: cross-entropy of a target over them against a softmax of log-ratios (ADPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Traits


@dataclass(frozen=True, kw_only=True)
class AnchoredListwise:
    """-sum_i q_i log p_i, p = softmax_i((s_i - s_anchor,i) / tau), s_i = sum_t log S(y_i,t). https://arxiv.org/abs/2510.18913

    q = softmax_i(((R_i - mean R) / (std R + 1e-8)) / beta_reward), std with n in the denominator. `anchor`: the old policy that drew the
    sequences, or what the objective's target says of them (a reference, a teacher). |S| = 2, q = (1, 0), tau = 1 / beta is DPO's
    sigmoid loss. In nats, not zero at its lowest: there it is the entropy of q.
    """

    tau: float = 1.0
    beta_reward: float = 0.5
    anchor: Literal["old", "target"] = "old"

    def __post_init__(self) -> None:
        if self.tau <= 0 or self.beta_reward <= 0:
            raise ValueError(f"tau and beta_reward are {self.tau} and {self.beta_reward}; accepted: above 0")
        if self.anchor not in ("old", "target"):
            raise ValueError(f"anchor is {self.anchor!r}; accepted: old, target")

    @property
    def traits(self) -> Traits:
        """With anchor `old` there is no target."""
        is_old = self.anchor == "old"
        return Traits(
            is_divergence=False,
            needs_target=not is_old,
            needs_whole=True,
            needs_support=not is_old,
            needs_old=is_old,
            needs_student_draws=is_old,
            needs_reward=True,
            needs_groups=True,
        )

    def preference(self, rewards: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        """Return q of one group. Equal rewards give equal shares."""
        spread = rewards.std(correction=0)
        return ((rewards - rewards.mean()) / (spread + 1e-8) / self.beta_reward).softmax(dim=0)

    def group_loss(self, log_ratios: Float[Tensor, "S"], preference: Float[Tensor, "S"]) -> Float[Tensor, ""]:
        """Return the loss of one group from s_i - s_anchor,i and q."""
        return -(preference * (log_ratios / self.tau).log_softmax(dim=0)).sum()


def group_sums(values: Float[Tensor, "N"], sequences: Tensor, num_sequences: int) -> Float[Tensor, "S"]:
    """Return the sum over each sequence's tokens."""
    return torch.zeros(num_sequences, dtype=values.dtype, device=values.device).index_add(0, sequences, values)
