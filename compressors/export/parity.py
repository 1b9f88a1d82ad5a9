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
    """What a model says to one prompt: the logits of its last tokens, those of its end in a padded batch, and the greedy continuation."""

    prompt: Sequence[int]
    logits: Float[Tensor, "T V"]
    padded_end: Float[Tensor, "V"]
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
    """Record what the exported graph says, as it is used: each prompt alone, all in a batch padded on the left, and decoded over a cache.

    Recorded, so that two models need not be in memory at once.
    """
    ids, mask = pad_left(prompts, runner.device)
    ends, _ = runner.forward(ids, mask, None, last_only=True)
    logits = [_logits(runner, prompt)[-NUM_KEPT_LOGITS:].clone() for prompt in prompts]  # the rest is let go
    written = _continuations(runner, prompts, num_new_tokens, on_prompt)
    return [Said(*one) for one in zip(prompts, logits, ends[:, -1].float().cpu(), written, strict=True)]


def measure_parity(
    said: Sequence[Said], original: CausalRunner, *, on_prompt: Callable[[int], None] = lambda count: None
) -> Parity:
    """Let the original read what was recorded, each text in one pass, and compare: it would have written a text as far as it agrees.

    Agreement counts the tokens before the first one that differs: after it the texts are two different texts. Differences are
    absolute, over the prompt's last tokens.
    """
    num_new_tokens = len(said[0].token_ids)
    largest, total, num_logits, agreed = 0.0, 0.0, 0, 0
    for one in said:
        own = _logits(original, [*one.prompt, *one.token_ids[:-1]])
        prompt = own[: len(one.prompt)][-NUM_KEPT_LOGITS:]
        difference, of_end = (prompt - one.logits).abs_(), (prompt[-1] - one.padded_end).abs_()
        largest = max(largest, float(difference.max()), float(of_end.max()))
        total, num_logits = total + float(difference.sum(dtype=torch.float64)), num_logits + difference.numel()
        pairs = zip(own[len(one.prompt) - 1 :].argmax(dim=-1).tolist(), one.token_ids, strict=True)
        agreed += next((index for index, (a, b) in enumerate(pairs) if a != b), num_new_tokens)
        on_prompt(1)
    if not torch.isfinite(torch.tensor(largest)):
        largest = float("inf")
    return Parity(largest, total / num_logits, agreed / (len(said) * num_new_tokens), len(said), num_new_tokens)


def _logits(runner: CausalRunner, text: Sequence[int]) -> Float[Tensor, "T V"]:
    ids, mask = pad_right([text], runner.device)
    logits, _ = runner.forward(ids, mask, None, last_only=False)
    return logits[0].float().cpu()


def _continuations(
    runner: CausalRunner, prompts: Sequence[Sequence[int]], num_new_tokens: int, on_prompt: Callable[[int], None]
) -> list[list[int]]:
    written = decode(
        runner, prompts, max_new_tokens=num_new_tokens, stop_ids=(), batch_size=NUM_TOGETHER, on_finished=on_prompt
    )
    return [text.token_ids for text in written]
