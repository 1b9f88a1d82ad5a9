"""Does the exported graph say what the torch model says? Measured on real prompts, decided by the text it would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from compressors.measure.decode import decode
from compressors.measure.likelihood import pad_right
from compressors.measure.runner import CausalRunner
from compressors.measure.slots import pad_left

# Logits are kept for so many tokens of a prompt, its last ones: a vocabulary of numbers each.
NUM_KEPT_LOGITS = 64


@dataclass(frozen=True)
class Said:
    """What a model says to one prompt: the logits of its last tokens, and the greedy continuation."""

    prompt: Sequence[int]
    logits: Float[Tensor, "T V"]
    token_ids: Sequence[int]


@dataclass(frozen=True)
class Parity:
    """Differences of logits over real tokens, and the share of greedy tokens that agree before the first difference of each prompt."""

    max_logit_difference: float
    mean_logit_difference: float
    token_agreement: float
    num_prompts: int
    num_new_tokens: int


def listen_to(
    runner: CausalRunner,
    prompts: Sequence[Sequence[int]],
    *,
    num_new_tokens: int,
    on_prompt: Callable[[int], None] = lambda count: None,
) -> list[Said]:
    """Record what a model says to each prompt alone. Recorded first, so that two models need not be in memory at once."""
    said = []
    for prompt in prompts:
        ids, mask = pad_right([prompt], runner.device)
        logits, _ = runner.forward(ids, mask, None, last_only=False)
        [written] = decode(runner, [prompt], max_new_tokens=num_new_tokens, stop_ids=())
        said.append(Said(prompt, logits[0, -NUM_KEPT_LOGITS:].float().cpu().clone(), written.token_ids))
        on_prompt(1)
    return said


def measure_parity(
    expected: Sequence[Said], candidate: CausalRunner, *, on_prompt: Callable[[int], None] = lambda count: None
) -> Parity:
    """Compare prefill logits (max and mean absolute difference) and greedy decoding with what was recorded.

    Each prompt alone, and the logits of each prompt's end once more in a batch padded on the left. Agreement counts the tokens
    before the first one that differs: after it the texts are two different texts.
    """
    num_new_tokens = len(expected[0].token_ids)
    ids, mask = pad_left([one.prompt for one in expected], candidate.device)
    together, _ = candidate.forward(ids, mask, None, last_only=True)
    largest, total, num_logits, agreed = 0.0, 0.0, 0, 0
    for row, one in enumerate(expected):
        [said] = listen_to(candidate, [one.prompt], num_new_tokens=num_new_tokens)
        differences = [(one.logits - said.logits).abs(), (one.logits[-1] - together[row, -1].float().cpu()).abs()]
        largest = max(largest, *(float(difference.max()) for difference in differences))
        total, num_logits = total + float(differences[0].double().sum()), num_logits + differences[0].numel()
        pairs = zip(one.token_ids, said.token_ids, strict=True)
        agreed += next((index for index, (a, b) in enumerate(pairs) if a != b), num_new_tokens)
        on_prompt(1)
    if not torch.isfinite(torch.tensor(largest)):
        largest = float("inf")
    return Parity(largest, total / num_logits, agreed / (len(expected) * num_new_tokens), len(expected), num_new_tokens)
