"""Does the exported graph say what the torch model says? Measured on real prompts, decided by the text it would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attar.compressors.models.decode import decode
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.slots import pad_left, pad_right

# Logits are kept for so many tokens of a prompt, its last ones: a vocabulary of numbers each.
NUM_KEPT_LOGITS = 64
# Continuations written at once.
NUM_TOGETHER = 8
# How a runtime that keeps its cache to itself writes. From a prompt to what it writes greedily, its last token an end of text or the last asked for.
Write = Callable[[Sequence[int]], list[int]]


@dataclass(frozen=True)
class DecodedPrompt:
    """What a model says to one prompt. The logits of its last tokens, those of its end in a padded batch, and the greedy continuation.

    The logits lie in a file, float32: some 13 MB a prompt, which would stay in memory beside the second model.
    """

    prompt: Sequence[int]
    logits_file: Path
    padded_end: Float[Tensor, "V"]
    token_ids: Sequence[int]


@dataclass(frozen=True)
class Parity:
    """Agreement of two models. Differences of logits over real tokens; the share of greedy tokens before each prompt's first difference."""

    max_logit_difference: float
    mean_logit_difference: float
    token_agreement: float
    num_prompts: int
    num_new_tokens: int


def listen_to(
    runner: CausalRunner,
    prompts: Sequence[Sequence[int]],
    folder: Path,
    *,
    num_new_tokens: int,
    on_prompt: Callable[[int], None] = lambda count: None,
    write: Write | None = None,
) -> list[DecodedPrompt]:
    """Record what the exported graph says, as it is used. Each prompt alone, all in a batch padded on the left, and decoded over a cache.

    Recorded, with the logits in `folder`, so that two models need not be in memory at once. `write`: how it goes on from a prompt,
    where that is not by the runner's slots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids, mask = pad_left(prompts, runner.device)
    ends, _ = runner.forward(ids, mask, None, last_only=True)
    files = [folder / f"{index}.npy" for index in range(len(prompts))]
    for file, prompt in zip(files, prompts, strict=True):
        np.save(file, _logits(runner, prompt)[-NUM_KEPT_LOGITS:].numpy())
    if write is None:
        written = _continuations(runner, prompts, num_new_tokens, on_prompt)
    else:
        written = []
        for prompt in prompts:
            written.append(write(prompt))
            on_prompt(1)
    return [DecodedPrompt(*parts) for parts in zip(prompts, files, ends[:, -1].float().cpu(), written, strict=True)]


def measure_parity(
    answers: Sequence[DecodedPrompt], original: CausalRunner, *, on_prompt: Callable[[int], None] = lambda count: None
) -> Parity:
    """Let the original read what was recorded, each text in one pass, and compare. It would have written a text as far as it agrees.

    Agreement counts the tokens before the first one that differs: after it the texts are two different texts. Differences are
    absolute, over the prompt's last tokens.
    """
    largest, total, num_logits, agreed = 0.0, 0.0, 0, 0
    for answer in answers:
        own = _logits(original, [*answer.prompt, *answer.token_ids[:-1]]).numpy()
        would_write = own[len(answer.prompt) - 1 :].argmax(axis=-1).tolist()
        difference = own[: len(answer.prompt)][-NUM_KEPT_LOGITS:]
        of_end = np.abs(difference[-1] - answer.padded_end.numpy())
        # in place, since a vocabulary of numbers for each token is much; np.max, since Python's max passes over NaN
        np.abs(np.subtract(difference, np.load(answer.logits_file), out=difference), out=difference)
        largest = float(np.max([largest, difference.max(), of_end.max()]))
        total, num_logits = total + float(difference.sum(dtype=np.float64)), num_logits + difference.size
        pairs = zip(would_write, answer.token_ids, strict=True)
        agreed += next((index for index, (a, b) in enumerate(pairs) if a != b), len(answer.token_ids))
        on_prompt(1)
    if not np.isfinite(largest):
        largest = float("inf")
    lengths = [len(answer.token_ids) for answer in answers]
    return Parity(largest, total / num_logits, agreed / sum(lengths), len(answers), max(lengths))


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
