"""Score text under a model: log-likelihood of continuations, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.sampling import refuse_nan
from attar.compressors.models.slots import pad_right

# A context and what follows it, as token ids; the context has at least one.
Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation: the sum of its token log-probabilities in nats, its tokens, and whether greedy decoding would give it."""

    logprob_nats: float
    num_tokens: int
    is_greedy: bool


def continuation_likelihoods(
    runner: CausalRunner,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[Likelihood]:
    """Return the likelihood of each continuation given its context, both token ids, the context at least one token.

    Pairs are batched by length, longest first, so that padding is small and the largest batch comes first.
    """
    results: dict[int, Likelihood] = {}
    for locations, input_ids, attention_mask in scoring_batches(pairs, batch_size, runner.device):
        logits, _ = runner.forward(input_ids, attention_mask, None, last_only=False)
        for row, (index, tokens) in enumerate(locations):
            scores = logits[row, tokens].float()
            results[index] = _likelihood(scores, torch.tensor(list(pairs[index][1]), device=scores.device))
        on_scored(len(locations))
    return [results[index] for index in range(len(pairs))]


@torch.inference_mode()
def token_logprobs(runner: CausalRunner, pairs: Sequence[Pair], *, batch_size: int) -> list[list[float]]:
    """Return the log-probability in nats of each token of each continuation given what stands before it."""
    results: dict[int, list[float]] = {}
    for locations, input_ids, attention_mask in scoring_batches(pairs, batch_size, runner.device):
        logits, _ = runner.forward(input_ids, attention_mask, None, last_only=False)
        for row, (index, tokens) in enumerate(locations):
            logprobs = logits[row, tokens].float().log_softmax(dim=-1)
            targets = torch.tensor(list(pairs[index][1]), device=logprobs.device)
            results[index] = refuse_nan(logprobs.gather(-1, targets[:, None])[:, 0]).tolist()
    return [results[index] for index in range(len(pairs))]


def top_candidates(
    runner: CausalRunner,
    pairs: Sequence[Pair],
    *,
    num_candidates: int,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[tuple[Int[Tensor, "T K"], Float[Tensor, "T K"]]]:
    """Return the most probable tokens at each place of each continuation, and their log-probabilities in nats, on the CPU."""
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for locations, input_ids, attention_mask in scoring_batches(pairs, batch_size, runner.device):
        logits, _ = runner.forward(input_ids, attention_mask, None, last_only=False)
        for row, (index, tokens) in enumerate(locations):
            logprobs = logits[row, tokens].float().log_softmax(dim=-1)
            values, ids = logprobs.topk(min(num_candidates, logprobs.shape[-1]), dim=-1)
            results[index] = ids.cpu(), values.cpu()
        on_scored(len(locations))
    return [results[index] for index in range(len(pairs))]


def scoring_batches(
    pairs: Sequence[Pair], batch_size: int, device: torch.device
) -> Iterator[tuple[list[tuple[int, slice]], Int[Tensor, "B T"], Int[Tensor, "B T"]]]:
    """Yield (index of each row's pair and where the logits of its continuation lie, input ids, attention mask), longest first."""
    order = sorted(range(len(pairs)), key=lambda index: -(len(pairs[index][0]) + len(pairs[index][1])))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        input_ids, attention_mask = pad_right([[*pairs[index][0], *pairs[index][1]][:-1] for index in chunk], device)
        firsts = [len(pairs[index][0]) - 1 for index in chunk]
        locations = [
            (index, slice(first, first + len(pairs[index][1]))) for index, first in zip(chunk, firsts, strict=True)
        ]
        yield locations, input_ids, attention_mask


# Tokens whose loss is kept as one number: an interval of the perplexity comes from drawing such pieces anew.
PIECE_TOKENS = 32
# Of one piece of text: its loss in nats, and its tokens.
Piece = tuple[float, int]


@torch.inference_mode()
def piece_losses(
    runner: CausalRunner,
    windows: Sequence[Pair],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[Piece]:
    """Return the loss of each piece of a text, read in windows, each (context, what is predicted). Raises ValueError without a token."""
    pairs = [(context, tokens) for context, tokens in windows if tokens]
    if not pairs:
        raise ValueError("the text has too few tokens for a perplexity")
    losses: dict[int, list[Piece]] = {}
    for locations, input_ids, attention_mask in scoring_batches(pairs, batch_size, runner.device):
        logits, _ = runner.forward(input_ids, attention_mask, None, last_only=False)
        for row, (index, tokens) in enumerate(locations):
            logprobs = logits[row, tokens].float().log_softmax(dim=-1)
            targets = torch.tensor(list(pairs[index][1]), device=logprobs.device)
            nats = refuse_nan(-logprobs.gather(-1, targets[:, None])[:, 0].double())
            losses[index] = [(float(part.sum()), len(part)) for part in nats.split(PIECE_TOKENS)]
        on_scored(len(locations))
    return [piece for index in range(len(pairs)) for piece in losses[index]]


def perplexity_of(pieces: Sequence[Piece]) -> float:
    """Return exp(mean negative log-likelihood of a token) over all pieces."""
    return math.exp(sum(nats for nats, _ in pieces) / sum(count for _, count in pieces))


def perplexity(runner: CausalRunner, token_ids: Sequence[int], *, window: int, batch_size: int) -> float:
    """Return the perplexity of a text in windows that do not overlap; the first token of each is context only."""
    chunks = [token_ids[start : start + window] for start in range(0, len(token_ids), window)]
    return perplexity_of(piece_losses(runner, [(chunk[:1], chunk[1:]) for chunk in chunks], batch_size=batch_size))


def _likelihood(logits: Float[Tensor, "T V"], targets: Int[Tensor, "T"]) -> Likelihood:
    logprobs = logits.log_softmax(dim=-1)
    total = refuse_nan(logprobs.gather(-1, targets[:, None]).sum())
    is_greedy = bool((logits.argmax(dim=-1) == targets).all())
    return Likelihood(float(total), len(targets), is_greedy)
