"""Score the choices of questions: each question is read once, and every choice goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import ForkingRunner
from attar.compressors.models.sampling import refuse_nan
from attar.compressors.models.slots import pad_left, pad_right

# A context and what may follow it, as token ids, at least one each.
Question = tuple[Sequence[int], Sequence[Sequence[int]]]


@torch.inference_mode()
def choice_likelihoods(
    runner: ForkingRunner,
    questions: Sequence[Question],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[list[float]]:
    """Return the log-probability of each choice of each question, in nats, the sum over its tokens.

    What `continuation_likelihoods` gives for (context, choice), without reading a context once a choice and without logits for its
    tokens. `batch_size` counts questions; those of like length go together.
    """
    if not runner.shares_prefixes:
        return _read_apart(runner, questions, batch_size=batch_size, on_scored=on_scored)
    results: dict[int, list[float]] = {}
    order = sorted(range(len(questions)), key=lambda index: -len(questions[index][0]))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        contexts, mask = pad_left([questions[index][0] for index in part], runner.device)
        first, cache = runner.forward(contexts, mask, None, last_only=True)
        owners = torch.tensor(
            [row for row, index in enumerate(part) for _ in questions[index][1]], device=runner.device
        )
        choices = [choice for index in part for choice in questions[index][1]]
        tokens, is_real = pad_right(choices, runner.device)
        logprobs = _chosen(first[owners], tokens[:, :1])
        if tokens.shape[1] > 1:
            cache.batch_select_indices(owners)
            behind = torch.cat([mask[owners], is_real[:, :-1]], dim=1)
            logits, _ = runner.forward(tokens[:, :-1], behind, cache, last_only=False)
            logprobs = torch.cat([logprobs, _chosen(logits, tokens[:, 1:])], dim=1)
        sums = iter(refuse_nan((logprobs * is_real).sum(dim=1)).tolist())
        results |= {index: [next(sums) for _ in questions[index][1]] for index in part}
        on_scored(len(part))
    return [results[index] for index in range(len(questions))]


def _read_apart(
    runner: ForkingRunner, questions: Sequence[Question], *, batch_size: int, on_scored: Callable[[int], None]
) -> list[list[float]]:
    """Score each choice behind a reading of its context of its own."""
    pairs = [(context, choice) for context, choices in questions for choice in choices]
    scored = iter(continuation_likelihoods(runner, pairs, batch_size=batch_size))
    sums = [[next(scored).logprob_nats for _ in choices] for _, choices in questions]
    on_scored(len(questions))
    return sums


def _chosen(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each token (B T) under logits (B T V)."""
    logits = logits.float()
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(dim=-1)
