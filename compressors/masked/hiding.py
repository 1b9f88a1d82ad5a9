"""Which tokens of a block a training step hides, and so learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool
from torch import Tensor


class HidingRule(Protocol):
    """Hides some tokens of a block. Returns one or several views of it, each of which hides at least one token."""

    def __call__(self, num_tokens: int, generator: torch.Generator) -> list[Bool[Tensor, "T"]]: ...


@dataclass(frozen=True, kw_only=True)
class RandomCount:
    """Hide k tokens of the T of a block, k drawn evenly from lowest_fraction T to T. Every state that decoding passes through.

    https://arxiv.org/abs/1904.09324
    """

    lowest_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.lowest_fraction <= 1.0:
            raise ValueError(f"lowest_fraction is {self.lowest_fraction}; accepted: from 0 to 1")

    def __call__(self, num_tokens: int, generator: torch.Generator) -> list[Bool[Tensor, "T"]]:
        fewest = max(1, round(self.lowest_fraction * num_tokens))
        count = int(torch.randint(fewest, num_tokens + 1, (1,), generator=generator))
        return [_of_order(num_tokens, count, generator)]


@dataclass(frozen=True, kw_only=True)
class Complements:
    """Hide a share of a block, and in a second view the rest of it. Both together learn every token of the block once.

    https://arxiv.org/abs/2509.26488
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise ValueError(f"fraction is {self.fraction}; accepted: above 0 and below 1")

    def __call__(self, num_tokens: int, generator: torch.Generator) -> list[Bool[Tensor, "T"]]:
        if num_tokens == 1:
            return [torch.ones(1, dtype=torch.bool)]
        count = min(num_tokens - 1, max(1, round(self.fraction * num_tokens)))
        hidden = _of_order(num_tokens, count, generator)
        return [hidden, ~hidden]


@dataclass(frozen=True, kw_only=True)
class WholeBlock:
    """Hide the whole block: the student writes it in one pass, without any of its own tokens. https://arxiv.org/abs/2012.15525"""

    def __call__(self, num_tokens: int, generator: torch.Generator) -> list[Bool[Tensor, "T"]]:
        return [torch.ones(num_tokens, dtype=torch.bool)]


HIDING_RULES: dict[str, type[HidingRule]] = {
    "random": RandomCount,
    "complements": Complements,
    "whole": WholeBlock,
}


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How a training hides: which token stands for a hidden one, how long blocks are, and by which rule."""

    token: str
    block_size: int
    hide: HidingRule = field(default_factory=RandomCount)


def _of_order(num_tokens: int, count: int, generator: torch.Generator) -> Bool[Tensor, "T"]:
    hidden = torch.zeros(num_tokens, dtype=torch.bool)
    hidden[torch.randperm(num_tokens, generator=generator)[:count]] = True
    return hidden
