"""Policy losses on drawn tokens: a clipped ratio times the advantage. A is the advantage, the loss is minus what is gained.

-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) per token. An advantage of 0 gives no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class ClippedRatio:
    """r = S(y) / old(y): the loss of PPO and GRPO. https://arxiv.org/abs/2402.03300"""

    clip_low: float = 0.2
    clip_high: float = 0.2

    @property
    def traits(self) -> Traits:
        return Traits(
            is_divergence=False, needs_target=False, needs_student_draws=True, needs_old=True, needs_reward=True
        )

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        old, advantages = rewarded(drawn)
        return clipped_loss(drawn.of(student), old, advantages, self.clip_low, self.clip_high)


@dataclass(frozen=True, kw_only=True)
class TeacherRatio:
    """r = (S / old)^alpha (S / T)^(1 - alpha): the teacher inside the ratio (RLAD). https://arxiv.org/abs/2602.22495

    alpha 1 is ClippedRatio bit for bit (the paper's sentence that alpha 0 is contradicts its own equation 3).
    """

    alpha: float = 0.5
    clip_low: float = 0.2
    clip_high: float = 0.28

    @property
    def traits(self) -> Traits:
        return Traits(
            is_divergence=False,
            needs_whole=True,
            needs_support=True,
            needs_student_draws=True,
            needs_old=True,
            needs_reward=True,
        )

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha is {self.alpha}; accepted: from 0 to 1")

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        old, advantages = rewarded(drawn)
        anchor = self.alpha * old + (1.0 - self.alpha) * drawn.of(target)
        return clipped_loss(drawn.of(student), anchor, advantages, self.clip_low, self.clip_high)


def clipped_loss(
    own: Float[Tensor, "N"],
    anchor: Float[Tensor, "N"],
    advantages: Float[Tensor, "N"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "N"]:
    """Return -min(r A, clip(r) A) with r = exp(own - anchor)."""
    ratio = (own - anchor.detach()).exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def rewarded(drawn: Drawn) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Return (old log-probabilities, advantages). Raises ValueError when the tokens carry neither."""
    if drawn.old_logprobs is None or drawn.advantages is None:
        raise ValueError("a policy loss needs rollouts of the student with a verifier's reward")
    return drawn.old_logprobs, drawn.advantages


def check_clip(clip_low: float, clip_high: float) -> None:
    """Raise ValueError for a range that does not hold 1 inside."""
    if not 0.0 < clip_low < 1.0 or clip_high <= 0.0:
        raise ValueError(f"clip_low and clip_high are {clip_low} and {clip_high}; accepted: in (0, 1) and above 0")
