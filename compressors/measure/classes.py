"""How well a classifier's distributions fit the labels: accuracy, macro F1, calibration and loss, with 95% intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

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
