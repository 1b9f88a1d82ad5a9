"""A family of divergences for one-step students. Score distillation, each image weighed by teacher's density over the student's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.noised import NoisedBatch
from attar.compressors.distill.losses.denoising.adversarial import logits_of
from attar.compressors.distill.losses.denoising.scores import Pull, PureNoise
from attar.compressors.distill.losses.denoising.views import (
    CRITIC,
    NOISED_DISCRIMINATOR,
    PREDICTIONS,
    DenoisingViews,
    all_count,
)
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

REVERSE_KL = "reverse_kl"
# f''(r) r^2 of the divergences E_student[f(r)], by log r in nats; r: the teacher's density over the student's.
RATIO_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "forward_kl": torch.exp,  # f = r log r
    REVERSE_KL: torch.ones_like,  # f = -log r
    "jeffreys": lambda log_ratio: 1.0 + log_ratio.exp(),  # the sum of both
    "jensen_shannon": lambda log_ratio: 0.5 * log_ratio.sigmoid(),  # f = (r log r - (r + 1) log((r + 1) / 2)) / 2
    "chi_squared": lambda log_ratio: 2.0 * (2.0 * log_ratio).exp(),  # f = (r - 1)^2
}


@dataclass(frozen=True)
class DivergenceDistillation:
    """grad D_f(teacher's images || student's), noised: E[f''(r) r^2 (D_fake(x_t) - D_teacher(x_t)) / mean|x - D_teacher| dx/dtheta].

    x = G(noise) in one step, r the teacher's density over the student's at x_t: the exponential of what `discriminator` with `is_noised`
    says there. No gradient goes through any net. https://arxiv.org/abs/2505.20755, in the form of https://arxiv.org/abs/2502.15681.
    """

    divergence: str = "jeffreys"  # forward_kl, reverse_kl (score_distillation, without a discriminator), jeffreys, jensen_shannon, chi_squared
    guidance_scale: float = 1.0
    ratio_limit_nats: float = (
        2.0  # log r is cut to this size, above 0: its exponential is no better than the discriminator
    )
    ratio_share: float = 1.0  # log r is multiplied by it, in [0, 1]; a ramp from 0 lets the discriminator learn first

    def __post_init__(self) -> None:
        if self.divergence not in RATIO_WEIGHTS:
            raise ValueError(f"divergence is {self.divergence!r}; accepted: {', '.join(RATIO_WEIGHTS)}")
        if self.ratio_limit_nats <= 0:
            raise ValueError(f"ratio_limit_nats is {self.ratio_limit_nats}; accepted: above 0")
        if not 0.0 <= self.ratio_share <= 1.0:
            raise ValueError(f"ratio_share is {self.ratio_share}; accepted: from 0 to 1")

    @property
    def requires(self) -> Requires:
        nets = (CRITIC,) if self.divergence == REVERSE_KL else (CRITIC, NOISED_DISCRIMINATOR)
        return Requires(views=PREDICTIONS, sources=frozenset({"teacher"}), projections=nets)

    @property
    def start(self) -> PureNoise:
        return PureNoise()

    def num_terms(self, batch: NoisedBatch) -> int:
        return batch.num_positions

    def terms(self, views: DenoisingViews) -> Terms:
        pull = Pull.of(views, self.guidance_scale)
        return all_count(self._weights(views, pull) * pull.half_square)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None

    @torch.no_grad()
    def _weights(self, views: DenoisingViews, pull: Pull) -> Float[Tensor, "B"]:
        if self.divergence == REVERSE_KL:
            return torch.ones_like(pull.half_square)
        logits = logits_of(views.of("discriminator"), pull.noised, pull.times, views.batch.shown).mean(dim=1)
        limit = self.ratio_limit_nats
        return RATIO_WEIGHTS[self.divergence](self.ratio_share * logits.clamp(-limit, limit))
