"""Temperature: what it does to a distribution, and the search for the one that gives a wanted entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def tempered(logprobs: Float[Tensor, "N C"], temperature: float | Float[Tensor, "N 1"]) -> Float[Tensor, "N C"]:
    """Return log of p^(1 / temperature), normalised."""
    return (logprobs / temperature).log_softmax(dim=-1)


def entropy_of(logprobs: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """Return -sum p log p in nats."""
    return -torch.linalg.vecdot(logprobs.exp(), logprobs)


def raised_entropy(entropy: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return H + 0.5 sigmoid(2 (H - 1.2)) nats. The raise grows with H, from nearly nothing to half a nat."""
    return entropy + 0.5 * torch.sigmoid(2.0 * (entropy - 1.2))


def bisect(
    is_below: Callable[[Float[Tensor, "N"]], Bool[Tensor, "N"]],
    low: Float[Tensor, "N"],
    high: Float[Tensor, "N"],
    *,
    num_halvings: int,
) -> Float[Tensor, "N"]:
    """Return, for each token, the largest value found in [low, high] for which `is_below` holds (it holds below one point)."""
    for _ in range(num_halvings):
        middle = 0.5 * (low + high)
        holds = is_below(middle)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low
