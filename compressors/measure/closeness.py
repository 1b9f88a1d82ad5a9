"""How close a student stays to its original on given text: divergence, agreement and loss, token by token, with intervals over texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compressors.measure.likelihood import Pair, scoring_batches
from compressors.measure.runner import CausalRunner

NUM_RESAMPLES = 2000
# Logits of both models for so many tokens are held at once.
TOKENS_PER_CHUNK = 64


@dataclass(frozen=True)
class TextCloseness:
    """Sums over the continuation of one text: KL(original || student) and losses in nats, tokens on which both are greedily alike."""

    kl_nats: float
    loss_nats: float
    original_loss_nats: float
    num_agreeing: int
    num_tokens: int


def closeness(
    student: CausalRunner,
    original: CausalRunner,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[TextCloseness]:
    """Compare the two models on each continuation given its context, both token ids, the context at least one token."""
    return closeness_of_each([student], original, pairs, batch_size=batch_size, on_scored=on_scored)[0]


@torch.inference_mode()
def closeness_of_each(
    students: Sequence[CausalRunner],
    original: CausalRunner,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[list[TextCloseness]]:
    """Compare several students with one original, whose logits are computed once a batch; return a list a student, in the order of the pairs."""
    found: list[dict[int, TextCloseness]] = [{} for _ in students]
    for places, ids, mask in scoring_batches(pairs, batch_size, original.device):
        theirs, _ = original.forward(ids, mask, None, last_only=False)
        for student, mine in zip(students, found, strict=True):
            logits, _ = student.forward(ids, mask, None, last_only=False)
            for row, (index, tokens) in enumerate(places):
                mine[index] = _compare(logits[row, tokens], theirs[row, tokens], torch.tensor(list(pairs[index][1])))
        on_scored(len(places))
    return [[mine[index] for index in range(len(pairs))] for mine in found]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Return sum / sum over texts (or questions) with a percentile interval from resampling them, pairs kept together.

    Means per token are such ratios, and so is retention: right answers of the student over those of the original.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    value = float(above.sum() / below.sum()) if below.sum() else float("nan")
    if len(above) < 2 or not below.any():
        return Estimate(value, float("nan"), float("nan"))
    from scipy.stats import bootstrap  # half a second that only those pay who measure

    with np.errstate(invalid="ignore", divide="ignore"):
        interval = bootstrap(
            (above, below),
            lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=NUM_RESAMPLES,
            batch=100,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def _compare(student: torch.Tensor, original: torch.Tensor, tokens: torch.Tensor) -> TextCloseness:
    kl, loss, original_loss, num_agreeing = 0.0, 0.0, 0.0, 0
    for start in range(0, len(tokens), TOKENS_PER_CHUNK):
        part = slice(start, start + TOKENS_PER_CHUNK)
        mine, theirs = student[part].float().log_softmax(-1), original[part].float().log_softmax(-1)
        wanted = tokens[part, None].to(mine.device)
        kl += float((theirs.exp() * (theirs - mine)).sum())
        loss -= float(mine.gather(-1, wanted).sum())
        original_loss -= float(theirs.gather(-1, wanted).sum())
        num_agreeing += int((mine.argmax(-1) == theirs.argmax(-1)).sum())
    return TextCloseness(kl, loss, original_loss, num_agreeing, len(tokens))
