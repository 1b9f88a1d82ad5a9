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
# Continuations written at once.
NUM_TOGETHER = 8


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
    """Record the logits of each prompt alone, and the continuations, written together: a batch reads the weights once a step.

    Recorded first, so that two models need not be in memory at once.
    """
    logits = [_logits(runner, prompt) for prompt in prompts]
    written = _continuations(runner, prompts, num_new_tokens, on_prompt)
    return [Said(*one) for one in zip(prompts, logits, written, strict=True)]


def measure_parity(
    expected: Sequence[Said], candidate: CausalRunner, *, on_prompt: Callable[[int], None] = lambda count: None
) -> Parity:
    """Compare prefill logits (max and mean absolute difference) and greedy decoding with what was recorded.

    The logits of each prompt alone, and those of its end once more in a batch padded on the left. Agreement counts the tokens
    before the first one that differs: after it the texts are two different texts.
    """
    num_new_tokens = len(expected[0].token_ids)
    ids, mask = pad_left([one.prompt for one in expected], candidate.device)
    together, _ = candidate.forward(ids, mask, None, last_only=True)
    largest, total, num_logits, agreed = 0.0, 0.0, 0, 0
    written = _continuations(candidate, [one.prompt for one in expected], num_new_tokens, on_prompt)
    for row, (one, token_ids) in enumerate(zip(expected, written, strict=True)):
        alone = _logits(candidate, one.prompt)  # one at a time: a vocabulary of numbers a token
        differences = [(one.logits - alone).abs(), (one.logits[-1] - together[row, -1].float().cpu()).abs()]
        largest = max(largest, *(float(difference.max()) for difference in differences))
        total, num_logits = total + float(differences[0].double().sum()), num_logits + differences[0].numel()
        pairs = zip(one.token_ids, token_ids, strict=True)
        agreed += next((index for index, (a, b) in enumerate(pairs) if a != b), num_new_tokens)
    if not torch.isfinite(torch.tensor(largest)):
        largest = float("inf")
    return Parity(largest, total / num_logits, agreed / (len(expected) * num_new_tokens), len(expected), num_new_tokens)


def _logits(runner: CausalRunner, prompt: Sequence[int]) -> Float[Tensor, "T V"]:
    ids, mask = pad_right([prompt], runner.device)
    logits, _ = runner.forward(ids, mask, None, last_only=False)
    return logits[0, -NUM_KEPT_LOGITS:].float().cpu().clone()


def _continuations(
    runner: CausalRunner, prompts: Sequence[Sequence[int]], num_new_tokens: int, on_prompt: Callable[[int], None]
) -> list[list[int]]:
    written = decode(
        runner, prompts, max_new_tokens=num_new_tokens, stop_ids=(), batch_size=NUM_TOGETHER, on_finished=on_prompt
    )
    return [text.token_ids for text in written]
