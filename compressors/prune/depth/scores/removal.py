"""What is lost on calibration text when blocks are really left out, in nats a token."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class PerplexityIncrease:
    """log perplexity without the blocks - log perplexity of the original: (-log q[t]) - (-log p[t]), in nats a token.

    Below 0 where a removal helps. Ranks as perplexity itself does. https://arxiv.org/abs/2402.09025
    """

    def __call__(
        self, original: Float[Tensor, "N V"], pruned: Float[Tensor, "N V"], targets: Int[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        before = nn.functional.cross_entropy(original.float(), targets, reduction="none")
        return nn.functional.cross_entropy(pruned.float(), targets, reduction="none") - before


@dataclass(frozen=True)
class KLIncrease:
    """KL(original || pruned) in nats a token; 0 when equal. KL(p || q) = sum_v p[v] * (log p[v] - log q[v])."""

    def __call__(
        self, original: Float[Tensor, "N V"], pruned: Float[Tensor, "N V"], targets: Int[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        del targets
        before, after = original.float().log_softmax(-1), pruned.float().log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1)
