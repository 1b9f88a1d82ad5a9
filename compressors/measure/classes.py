"""How well classifiers tell classes, and taggers spans: F1, accuracy, calibration and loss, with 95% intervals.

A span is right when its kind, its first word and its last are, as in conlleval and seqeval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

from attar.compressors.data.spans import kinds_of, spans_of
from attar.compressors.measure.closeness import Estimate
from attar.compressors.measure.paired import mean_share, paired_retention

NUM_RESAMPLES = 1000
# Bins of equal width of the likeliest class's probability, as most tables of calibration have.
NUM_BINS = 15


class Scored(Protocol):
    """What a model made of rows, as figures and their intervals are taken of it."""

    @property
    def right(self) -> np.ndarray:
        """1 for each row where all is right, else 0."""
        ...

    def chosen(self, rows: np.ndarray) -> Self:
        """Return what was made of some rows."""
        ...


S = TypeVar("S", bound=Scored)


@dataclass(frozen=True)
class Predictions:
    """Of N rows: the right class, the likeliest class, its probability, and the nats that the right class costs."""

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    nats: np.ndarray

    @staticmethod
    def of(logprobs: np.ndarray, labels: Sequence[int]) -> Predictions:
        """Return the predictions of log-probabilities of shape [rows, classes]."""
        right, predicted = np.asarray(labels), logprobs.argmax(axis=1)
        rows = np.arange(len(right))
        return Predictions(right, predicted, np.exp(logprobs[rows, predicted]), -logprobs[rows, right])

    def chosen(self, rows: np.ndarray) -> Predictions:
        """Return those of some rows."""
        return Predictions(self.labels[rows], self.predicted[rows], self.confidence[rows], self.nats[rows])

    @property
    def right(self) -> np.ndarray:
        """1 where the likeliest class is the right one, else 0."""
        return (self.predicted == self.labels).astype(float)


def macro_f1(predictions: Predictions) -> float:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN). Of the classes that are some row's label or prediction, each counted alike."""
    size = int(max(predictions.labels.max(), predictions.predicted.max())) + 1
    labels, predicted = (np.bincount(some, minlength=size) for some in (predictions.labels, predictions.predicted))
    hits = np.bincount(predictions.labels, weights=predictions.right, minlength=size)
    total = labels + predicted
    return float(np.mean(2.0 * hits[total > 0] / total[total > 0]))


def calibration_error(predictions: Predictions) -> float:
    """Return sum over bins of (share of rows) |mean right - mean confidence|, the expected calibration error. https://arxiv.org/abs/1706.04599"""
    bins = np.minimum((predictions.confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=predictions.right - predictions.confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(predictions.labels))


def mean_nats(predictions: Predictions) -> float:
    """Return the mean nats that the right class costs."""
    return float(predictions.nats.mean())


@dataclass(frozen=True)
class SpanCounts:
    """Spans of N texts and K kinds that are right, predicted and gold. Words of the texts, and those with the right tag."""

    hits: np.ndarray
    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray
    right_words: np.ndarray

    @staticmethod
    def of(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], tags: Sequence[str]) -> SpanCounts:
        """Return the counts of texts by the tags that their words were given and have, both of `tags`."""
        kinds = kinds_of(tags)
        counts = np.zeros((3, len(gold), len(kinds)), int)
        for row, (own, right) in enumerate(zip(predicted, gold, strict=True)):
            sets = [set(spans_of(some)) for some in (own, right)]
            for number, some in enumerate((sets[0] & sets[1], *sets)):
                by_kind = Counter(span.label for span in some)
                counts[number, row] = [by_kind[kind] for kind in kinds]
        same = [
            sum(a == b for a, b in zip(own, right, strict=True)) for own, right in zip(predicted, gold, strict=True)
        ]
        return SpanCounts(counts[0], counts[1], counts[2], np.asarray([len(some) for some in gold]), np.asarray(same))

    def chosen(self, rows: np.ndarray) -> SpanCounts:
        """Return those of some texts."""
        return SpanCounts(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def right(self) -> np.ndarray:
        """1 where every word of a text has the right tag, else 0."""
        return (self.words == self.right_words).astype(float)


def span_f1(counts: SpanCounts) -> float:
    """Return 2 hits / (predicted + gold) over the spans of all texts and kinds; 0 where there are none."""
    return _quotient(2 * counts.hits.sum(), counts.predicted.sum() + counts.gold.sum())


def span_precision(counts: SpanCounts) -> float:
    """Return the share of predicted spans that are right."""
    return _quotient(counts.hits.sum(), counts.predicted.sum())


def span_recall(counts: SpanCounts) -> float:
    """Return the share of gold spans that are predicted."""
    return _quotient(counts.hits.sum(), counts.gold.sum())


def macro_span_f1(counts: SpanCounts) -> float:
    """Return the mean of the kinds' F1, of the kinds that are predicted or gold."""
    total = (counts.predicted + counts.gold).sum(axis=0)
    hits = counts.hits.sum(axis=0)
    return float(np.mean(2 * hits[total > 0] / total[total > 0])) if (total > 0).any() else 0.0


def kind_f1(counts: SpanCounts, kind: int) -> float:
    """Return the F1 of the spans of a single kind."""
    total = counts.predicted[:, kind].sum() + counts.gold[:, kind].sum()
    return _quotient(2 * counts.hits[:, kind].sum(), total)


def word_accuracy(counts: SpanCounts) -> float:
    """Return the share of words that have the right tag."""
    return _quotient(counts.right_words.sum(), counts.words.sum())


def _quotient(above: float, below: float) -> float:
    return float(above / below) if below else 0.0


def estimate(measure: Callable[[S], float], sets: Sequence[S], seed: int = 0) -> Estimate:
    """Return the mean of a measure over several sets, each counted alike. Their rows are drawn anew for the interval.

    Where all draws are alike, as of rows that are all right, the interval is that of the share of right rows: drawing anew would know too much.
    """
    value = float(np.mean([measure(some) for some in sets]))
    draws = [np.mean([measure(some) for some in drawn]) for drawn in _drawn(sets, seed)]
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    if low == high:
        right = mean_share([some.right.tolist() for some in sets])
        low, high = min(low, right.low), max(high, right.high)
    return Estimate(value, low, high)


def ratio(
    measure: Callable[[S], float],
    candidate: Sequence[S],
    baseline: Sequence[S],
    seed: int = 0,
) -> Estimate:
    """Return the candidate's mean of a measure / the baseline's, on the same rows, which are drawn anew together.

    Where all draws are alike the interval is that of the ratio of right rows, as in `estimate`.
    """

    def quotient(pairs: Sequence[tuple[S, S]]) -> float:
        above, below = (np.mean([measure(pair[side]) for pair in pairs]) for side in (0, 1))
        return float(above / below) if below else float("nan")

    pairs = list(zip(candidate, baseline, strict=True))
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(NUM_RESAMPLES):
        rows = [generator.integers(0, len(first.right), len(first.right)) for first, _ in pairs]
        draws.append(quotient([(a.chosen(some), b.chosen(some)) for (a, b), some in zip(pairs, rows, strict=True)]))
    known = np.asarray([value for value in draws if np.isfinite(value)])
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (float("nan"), float("nan"))
    if low == high:
        right = paired_retention([(first.right.tolist(), other.right.tolist()) for first, other in pairs])
        low, high = min(low, right.low), max(high, right.high)
    return Estimate(quotient(pairs), float(low), float(high))


def _drawn(sets: Sequence[S], seed: int) -> list[list[S]]:
    generator = np.random.default_rng(seed)
    return [
        [some.chosen(generator.integers(0, len(some.right), len(some.right))) for some in sets]
        for _ in range(NUM_RESAMPLES)
    ]
