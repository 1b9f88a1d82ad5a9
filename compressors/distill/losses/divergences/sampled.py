"""Estimates of KL(S || T) from the drawn token alone. d = log S(y) - log T(y), y drawn by the policy that `old_logprobs` are of.

rho = S(y) / sg(old(y)); sg stops the gradient. In expectation over y from the old policy, whatever it is:
  k1  rho sg(d)            gradient of KL(S || T)
  k2  sg(rho) d^2 / 2      gradient of KL(S || T)
  k3  rho (e^-d - 1 + d)   value and gradient of KL(S || T)
Autograd of the unweighted k3 gives, drawn from S itself, the gradient of KL(T || S): the other direction. A ratio that is detached does
not repair it. http://joschu.net/blog/kl-approx.html, https://arxiv.org/abs/2604.10674
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.traits import Drawn, Traits


@dataclass(frozen=True, kw_only=True)
class SampledToken:
    """rho sg(d): the policy-gradient form; its mean is KL(S || T). One sample may be negative."""

    @property
    def traits(self) -> Traits:
        return Traits(needs_whole=True, needs_support=True, needs_student_draws=True, needs_old=True)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        own = drawn.of(student)
        return ratio(own, drawn) * (own - drawn.of(target)).detach()


@dataclass(frozen=True, kw_only=True)
class K2:
    """d^2 / 2, never negative. `is_weighted`: times sg(rho), for tokens that an older or another policy drew.

    Unweighted it may stand on the data's tokens, as a pull of the student's log-probability toward the target's.
    """

    is_weighted: bool = False

    @property
    def traits(self) -> Traits:
        """Only the weighted form reads the policy that drew the tokens."""
        return Traits(
            needs_whole=True, needs_support=True, needs_student_draws=self.is_weighted, needs_old=self.is_weighted
        )

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        own = drawn.of(student)
        half_square = 0.5 * (own - drawn.of(target)).square()
        return ratio(own, drawn).detach() * half_square if self.is_weighted else half_square


@dataclass(frozen=True, kw_only=True)
class K3:
    """rho (e^-d - 1 + d), never negative; its mean is KL(S || T), and so is its gradient's.

    Without `is_weighted` rho is left out, and the gradient is that of KL(T || S) where the student itself drew the tokens.
    """

    is_weighted: bool = True

    @property
    def traits(self) -> Traits:
        """Only the weighted form reads the policy that drew the tokens."""
        return Traits(needs_whole=True, needs_support=True, needs_student_draws=True, needs_old=self.is_weighted)

    def __call__(self, target: Float[Tensor, "N C"], student: Float[Tensor, "N C"], drawn: Drawn) -> Float[Tensor, "N"]:
        own = drawn.of(student)
        difference = own - drawn.of(target)
        estimate = (-difference).expm1() + difference
        return ratio(own, drawn) * estimate if self.is_weighted else estimate


def ratio(own: Float[Tensor, "N"], drawn: Drawn) -> Float[Tensor, "N"]:
    """Return S(y) / old(y), with a gradient in S. Raises ValueError where the old log-probabilities were not kept."""
    if drawn.old_logprobs is None:
        raise ValueError("an importance ratio needs the log-probabilities that the tokens were drawn with")
    return (own - drawn.old_logprobs.detach()).exp()
