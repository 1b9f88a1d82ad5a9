"""The nearest point to one distribution inside a KL ball around another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Newton aims a little inside the ball, so that the last step lands there; what is left unused is this share of the budget.
AIM = 1.0 - 1e-4


def nearest_in_ball(
    center: Float[Tensor, "N C"], toward: Float[Tensor, "N C"], budgets: Float[Tensor, "N"], *, num_steps: int = 16
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N"]]:
    """Return the nearest distribution in a KL ball and its distance in nats. q = argmin KL(q || toward) with KL(q || center) <= budget.

    q_t is proportional to center^(1-t) toward^t, and KL(q_t || center) rises in t with slope t Var_q[log toward - log center]: t is found by
    Newton's steps inside a bracket whose lower end stays in the ball. Budget 0 gives the center. https://arxiv.org/abs/2602.07120
    """
    low, high = torch.zeros_like(budgets), torch.ones_like(budgets)
    share = high
    gap = toward - center
    for _ in range(num_steps):
        q, spent = _point(center, gap, share)
        is_inside = spent <= budgets
        low, high = torch.where(is_inside, share, low), torch.where(is_inside, high, share)
        probs = q.exp()
        mean = (probs * gap).sum(dim=-1)
        slope = share * (probs * (gap - mean[:, None]).square()).sum(dim=-1)
        share = share - (spent - AIM * budgets) / slope.clamp(min=1e-12)
        # outside of the bracket, or on its ends, halving is what is sure to get on
        share = torch.where((share > low) & (share < high), share, 0.5 * (low + high))
        if bool((low == 1.0).all()):
            break
    return _point(center, gap, low)


def _point(
    center: Float[Tensor, "N C"], gap: Float[Tensor, "N C"], share: Float[Tensor, "N"]
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N"]]:
    q = (center + share[:, None] * gap).log_softmax(dim=-1)
    return q, (q.exp() * (q - center)).sum(dim=-1).clamp(min=0.0)
