"""Does the exported graph say what the torch model says? Measured on real prompts, decided by the text it would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from compressors.measure.decode import decode
from compressors.measure.likelihood import pad_right
from compressors.measure.runner import CausalRunner


@dataclass(frozen=True)
class Parity:
    """Differences of logits over real tokens, and the share of greedy tokens that agree before the first difference of each prompt."""

    max_logit_difference: float
    mean_logit_difference: float
    token_agreement: float
    num_prompts: int
    num_new_tokens: int


def measure_parity(
    reference: CausalRunner,
    candidate: CausalRunner,
    prompts: Sequence[Sequence[int]],
    *,
    num_new_tokens: int = 64,
    on_prompt: Callable[[int], None] = lambda count: None,
) -> Parity:
    """Compare prefill logits (max and mean absolute difference) and greedy decoding of `num_new_tokens`, each prompt alone.

    Agreement counts the tokens before the first one that differs: after it the texts are two different texts.
    """
    largest, total, num_logits, agreed = 0.0, 0.0, 0, 0
    for prompt in prompts:
        ids, mask = pad_right([prompt], reference.device)
        expected, _ = reference.forward(ids, mask, None, last_only=False)
        actual, _ = candidate.forward(ids.to(candidate.device), mask.to(candidate.device), None, last_only=False)
        difference = (expected.float().cpu() - actual.float().cpu()).abs()
        largest = max(largest, float(difference.max()))
        total, num_logits = total + float(difference.double().sum()), num_logits + difference.numel()
        agreed += _greedy_agreement(reference, candidate, prompt, num_new_tokens)
        on_prompt(1)
    if not torch.isfinite(torch.tensor(largest)):
        largest = float("inf")
    share = agreed / (len(prompts) * num_new_tokens)
    return Parity(largest, total / num_logits, share, len(prompts), num_new_tokens)


def _greedy_agreement(
    reference: CausalRunner, candidate: CausalRunner, prompt: Sequence[int], num_new_tokens: int
) -> int:
    texts = [
        decode(runner, [prompt], max_new_tokens=num_new_tokens, stop_ids=())[0].token_ids
        for runner in (reference, candidate)
    ]
    pairs = zip(*texts, strict=True)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), num_new_tokens)
