"""Which masks one pass fills: those that the model is sure of, and at least the surest of each text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class FillRule(Protocol):
    """Says how doubtful each position is, lower is surer, and which are sure enough to be filled at once."""

    def __call__(self, logprobs: Float[Tensor, "B T V"]) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]: ...


@dataclass(frozen=True, kw_only=True)
class BelowEntropy:
    """Fill where the entropy of the distribution is below max_nats; 0: one token a pass. https://arxiv.org/abs/2509.26488"""

    max_nats: float = 0.5

    def __post_init__(self) -> None:
        if self.max_nats < 0:
            raise ValueError(f"max_nats is {self.max_nats}; accepted: 0 or more")

    def __call__(self, logprobs: Float[Tensor, "B T V"]) -> tuple[Tensor, Tensor]:
        # 0 times the logarithm of no mass is 0
        entropy = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(dim=-1)
        return entropy, entropy < self.max_nats


@dataclass(frozen=True, kw_only=True)
class AboveProbability:
    """Fill where the likeliest token has more than min_probability; 1: one token a pass. https://arxiv.org/abs/2505.22618"""

    min_probability: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_probability <= 1.0:
            raise ValueError(f"min_probability is {self.min_probability}; accepted: from 0 to 1")

    def __call__(self, logprobs: Float[Tensor, "B T V"]) -> tuple[Tensor, Tensor]:
        highest = logprobs.amax(dim=-1)
        # 1 is rounded to: nothing is surer than sure
        return -highest, (highest.exp() > self.min_probability) & (self.min_probability < 1.0)


FILL_RULES: dict[str, type[FillRule]] = {"entropy": BelowEntropy, "probability": AboveProbability}


def filled_now(
    doubt: Float[Tensor, "B T"], is_sure: Bool[Tensor, "B T"], is_masked: Bool[Tensor, "B T"]
) -> Bool[Tensor, "B T"]:
    """Return the masks that are filled: the sure ones, and the surest of every row that has any."""
    surest = doubt.masked_fill(~is_masked, torch.inf).argmin(dim=-1, keepdim=True)
    chosen = is_sure.scatter(-1, surest, True)
    return chosen & is_masked
