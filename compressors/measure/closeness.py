"""How close a student stays to its original on given text. Divergence, agreement and loss, token by token, with intervals over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.measure.likelihood import Pair, scoring_batches
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.sampling import refuse_nan
from attar.compressors.models.slots import pad_right

NUM_RESAMPLES = 2000
# Draws held in memory at once, each as long as the texts are many.
RESAMPLES_AT_ONCE = 100
# Logits of both models for so many tokens are held at once.
TOKENS_PER_CHUNK = 64


@dataclass(frozen=True)
class TextCloseness:
    """Sums over the continuation of one text. KL(original || student) and losses in nats, tokens on which both are greedily alike."""

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
    """Compare several students with one original, whose logits are computed once a batch. Return a list a student, in the order of the pairs."""
    closenesses: list[dict[int, TextCloseness]] = [{} for _ in students]
    for locations, ids, mask in scoring_batches(pairs, batch_size, original.device):
        logits, _ = original.forward(ids, mask, None, last_only=False)
        references = [
            _Reference.of(logits[row, tokens], pairs[index][1]) for row, (index, tokens) in enumerate(locations)
        ]
        for student, closeness in zip(students, closenesses, strict=True):
            logits, _ = student.forward(ids, mask, None, last_only=False)
            for row, (index, tokens) in enumerate(locations):
                closeness[index] = references[row].compare(logits[row, tokens])
        on_scored(len(locations))
    return [[closeness[index] for index in range(len(pairs))] for closeness in closenesses]


@torch.inference_mode()
def closeness_behind(
    readers: Sequence[tuple[CausalRunner, Sequence[Sequence[int]]]],
    original: CausalRunner,
    pairs: Sequence[Pair],
    *,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[list[TextCloseness]]:
    """Compare readers with an original that reads something else before the same continuations. Of each reader its own contexts are given.

    One text at a time: no padding is between what is compared.
    """
    compared: list[list[TextCloseness]] = [[] for _ in readers]
    for index, (context, tokens) in enumerate(pairs):
        reference = _Reference.of(_continuation_logits(original, context, tokens), tokens)
        for own, (reader, contexts) in zip(compared, readers, strict=True):
            own.append(reference.compare(_continuation_logits(reader, contexts[index], tokens)))
        on_scored(1)
    return compared


def _continuation_logits(runner: CausalRunner, context: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, "T V"]:
    ids, mask = pad_right([[*context, *tokens][:-1]], runner.device)
    return runner.forward(ids, mask, None, last_only=False)[0][0, len(context) - 1 :]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Return sum / sum over texts (or questions) with a percentile interval from resampling them, pairs kept together.

    Means per token are such ratios, and so is retention: right answers of the student over those of the original. The bootstrap is
    scipy's (`scipy.stats.bootstrap`, paired, percentile), draw for draw.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    value = float(above.sum() / below.sum()) if below.sum() else float("nan")
    if len(above) < 2 or not below.any():
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled_ratios(above, below, seed), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def resampled_ratios(above: np.ndarray, below: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return sum / sum of each resampling of the texts, pairs kept together."""
    generator = np.random.default_rng(seed)
    ratios: list[np.ndarray] = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_ONCE):
            count = min(RESAMPLES_AT_ONCE, NUM_RESAMPLES - start)
            drawn = generator.integers(0, len(above), (count, len(above)))
            ratios.append(above[drawn].sum(axis=-1) / below[drawn].sum(axis=-1))
    return np.concatenate(ratios)


@dataclass(frozen=True)
class Sums:
    """One student on one data set. Measure -> its sum over each text, and what all of them are divided by."""

    of_texts: Mapping[str, Sequence[float]]
    counts: Sequence[float]

    def estimates(self) -> dict[str, Estimate]:
        """Return each measure over all texts: sum / count, with its interval."""
        return {measure: ratio_of_sums(values, self.counts) for measure, values in self.of_texts.items()}

    def minus(self, other: Sums) -> dict[str, Estimate]:
        """Return what another measured on the same texts taken from this, text by text."""
        apart = {
            measure: [value - other_value for value, other_value in zip(values, other.of_texts[measure], strict=True)]
            for measure, values in self.of_texts.items()
        }
        return Sums(apart, self.counts).estimates()


@dataclass(frozen=True)
class _Reference:
    """The original on one continuation: its logits, and per token what every student is compared with."""

    logits: Float[Tensor, "T V"]
    tokens: Int[Tensor, "T"]
    greedy: Int[Tensor, "T"]
    log_norm: Float[Tensor, "T"]
    entropy_nats: Float[Tensor, "T"]
    loss_nats: float

    @staticmethod
    def of(logits: Float[Tensor, "T V"], tokens: Sequence[int]) -> _Reference:
        wanted = torch.tensor(list(tokens), device=logits.device)
        greedy, log_norm, entropy, loss = [], [], [], 0.0
        for part in _parts(len(wanted)):
            values, best, norm = _normalised(logits[part])
            greedy.append(best)
            log_norm.append(norm)
            entropy.append(norm - torch.linalg.vecdot((values - norm[:, None]).exp_(), values))
            loss += float((norm - values.gather(-1, wanted[part, None])[:, 0]).sum())
        return _Reference(logits, wanted, torch.cat(greedy), torch.cat(log_norm), torch.cat(entropy), loss)

    def compare(self, student: Float[Tensor, "T V"]) -> TextCloseness:
        """Compare by KL = sum of p (log p - log q) = log norm of q - <p, logits of q> - entropy of p: one pass over the vocabulary for p."""
        kl, loss, num_agreeing = 0.0, 0.0, 0
        for part in _parts(len(self.tokens)):
            values, best, norm = _normalised(student[part])
            p = (self.logits[part].float() - self.log_norm[part, None]).exp_()  # float() may be the logits themselves
            kl += float((norm - torch.linalg.vecdot(p, values) - self.entropy_nats[part]).sum())
            loss += float((norm - values.gather(-1, self.tokens[part, None])[:, 0]).sum())
            num_agreeing += int((best == self.greedy[part]).sum())
        return TextCloseness(kl, loss, self.loss_nats, num_agreeing, len(self.tokens))


def _parts(num_tokens: int) -> Iterator[slice]:
    for start in range(0, num_tokens, TOKENS_PER_CHUNK):
        yield slice(start, min(start + TOKENS_PER_CHUNK, num_tokens))


def _normalised(logits: Float[Tensor, "T V"]) -> tuple[Float[Tensor, "T V"], Int[Tensor, "T"], Float[Tensor, "T"]]:
    """Return (float32 logits, index of the largest, log of the sum of their exponentials); `max` finds both three times as fast as argmax."""
    values = logits.float()
    largest = values.max(dim=-1)
    norm = refuse_nan((values - largest.values[:, None]).exp_().sum(dim=-1).log_() + largest.values)
    return values, largest.indices, norm
