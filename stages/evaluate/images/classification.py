"""How well distributions over classes tell images or texts apart: accuracy by class, area under the ROC curve, calibration. 95% intervals.

Everything is of N rows with their labels and K classes. Intervals draw the rows anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from attar.compressors.measure.closeness import Estimate
from attar.compressors.measure.ranking import mean_ranks

NUM_RESAMPLES = 400
# Equal parts of [0, 1] that confidences fall into. https://arxiv.org/abs/1706.04599
NUM_BINS = 15
# Beyond so many classes the area under each one's curve, drawn anew, takes minutes.
MAX_AREA_CLASSES = 50


@dataclass(frozen=True, eq=False)
class Classified:
    """Rows that were classified: the class of each, and the log-probabilities of all classes, in nats."""

    labels: np.ndarray
    logprobs: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each row."""
        return self.logprobs.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """1 where that is the row's class, else 0."""
        return (self.predicted == self.labels).astype(float)

    def drawn(self, rows: np.ndarray) -> Classified:
        """Return these rows alone."""
        return Classified(self.labels[rows], self.logprobs[rows])

    def confusion(self) -> np.ndarray:
        """Return how many rows of each class (down) went into each class (across)."""
        count = self.logprobs.shape[1]
        table = np.zeros((count, count), int)
        np.add.at(table, (self.labels, self.predicted), 1)
        return table


def macro_accuracy(rows: Classified) -> float:
    """Return the mean over classes of the share of each class's rows that are right. Classes without a row say nothing."""
    return _mean_recall(rows, sorted(set(rows.labels.tolist())))


def tail_accuracy(rows: Classified, counts: Sequence[int]) -> float:
    """Return the macro accuracy of the third of the classes, one at least, that training had fewest rows of."""
    return _mean_recall(rows, tail_classes(counts))


def tail_classes(counts: Sequence[int]) -> list[int]:
    """Return the third of the classes, one at least, with the fewest rows; ties by number, the later first."""
    order = sorted(range(len(counts)), key=lambda index: (counts[index], -index))
    return sorted(order[: max(1, len(counts) // 3)])


def area(rows: Classified) -> float:
    """Return the mean over classes of the area under each one's ROC curve, it against the others. Not a number where a class is alone.

    Mann and Whitney's share of pairs that are ordered rightly, ties by half. https://doi.org/10.1148/radiology.143.1.7063747
    """
    areas = []
    for index in range(rows.logprobs.shape[1]):
        is_own = rows.labels == index
        num_own, num_others = int(is_own.sum()), int((~is_own).sum())
        if not num_own or not num_others:
            continue
        ranks = mean_ranks(rows.logprobs[:, index])
        areas.append((ranks[is_own].sum() - num_own * (num_own + 1) / 2) / (num_own * num_others))
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(rows: Classified) -> float:
    """Return the expected calibration error. By bins of confidence, how far accuracy is from it, weighed by how many fall in."""
    return float(sum(share * abs(right - confidence) for share, right, confidence in reliability(rows)))


def reliability(rows: Classified) -> list[tuple[float, float, float]]:
    """Return (share of the rows, accuracy, mean confidence) of each bin that any row falls into."""
    confidence = np.exp(rows.logprobs.max(axis=1))
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        (
            float((bins == index).mean()),
            float(rows.right[bins == index].mean()),
            float(confidence[bins == index].mean()),
        )
        for index in sorted(set(bins.tolist()))
    ]


def estimated(rows: Classified, figure: Callable[[Classified], float], seed: int = 0) -> Estimate:
    """Return a figure with its interval."""
    generator = np.random.default_rng(seed)
    count = len(rows.labels)
    draws = [figure(rows.drawn(generator.integers(0, count, count))) for _ in range(NUM_RESAMPLES)]
    values = np.asarray(draws)
    if not np.isfinite(values).any():
        return Estimate(figure(rows), float("nan"), float("nan"))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(figure(rows), float(low), float(high))


def _mean_recall(rows: Classified, classes: Sequence[int]) -> float:
    shares = [rows.right[rows.labels == index].mean() for index in classes if (rows.labels == index).any()]
    return float(np.mean(shares)) if shares else float("nan")
