"""The one place where losses per token become a number."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from compressors.distill.objectives import Objective, Targets


def summed_losses(
    objectives: Mapping[str, Objective], logprobs: Float[Tensor, "N V"], targets: Targets
) -> dict[str, tuple[Tensor, int]]:
    """Return, for each objective, (sum of its loss over the tokens it speaks about, in nats; how many those are)."""
    sums = {}
    for name, objective in objectives.items():
        per_token, speaks = objective(logprobs, targets)
        sums[name] = (per_token[speaks].sum(), int(speaks.sum()))
    return sums


def combine(
    sums: Mapping[str, tuple[Tensor, int]], weights: Mapping[str, float], num_tokens: Mapping[str, int]
) -> Tensor:
    """Return sum_o weight_o * sum_o / num_tokens_o.

    `num_tokens` counts the whole optimizer step (all micro-batches, all processes), so that splitting a batch changes nothing.
    An objective without tokens in the step contributes zero.
    """
    total = None
    for name, (loss_sum, _) in sums.items():
        term = weights[name] * loss_sum / max(num_tokens[name], 1)
        total = term if total is None else total + term
    assert total is not None, "no objectives"
    return total
