"""Macro F1, calibration and loss of predictions against their formulas, by hand and by scikit-learn's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from attar.compressors.measure.classes import (
    Predictions,
    calibration_error,
    estimate,
    macro_f1,
    mean_nats,
    ratio,
)


def predictions(num_rows: int = 300, seed: int = 0, sharpness: float = 2.0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, num_rows)
    logits = sharpness * generator.normal(size=(num_rows, 4))
    logits[np.arange(num_rows), labels] += 2.0
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions.of(logprobs, labels.tolist())


def test_macro_f1_counts_each_class_alike() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 3, 2])
    some = Predictions(labels, predicted, np.ones(6), np.zeros(6))
    # F1 of 0: 2*2/(3+2), of 1: 2*1/(2+2), of 2: 1, of 3, which no row is: 0
    assert macro_f1(some) == pytest.approx((0.8 + 0.5 + 1.0 + 0.0) / 4)
    perfect = Predictions(labels, labels, np.ones(6), np.zeros(6))
    assert macro_f1(perfect) == 1.0 and calibration_error(perfect) == 0.0


def test_calibration_is_the_gap_of_confidence_bin_by_bin() -> None:
    right = np.array([1, 1, 0, 0, 1])
    some = Predictions(np.ones(5, int), right, np.array([0.9, 0.9, 0.9, 0.9, 0.6]), np.zeros(5))
    assert calibration_error(some) == pytest.approx((4 * abs(0.5 - 0.9) + abs(1 - 0.6)) / 5)
    # gaps of two bins do not cancel: too sure in one, not sure enough in the other
    assert calibration_error(some) > abs(0.6 - np.mean(some.confidence))
    # the posterior of a shift of 2 in noise of variance s^2 is softmax(2 z / s^2): logits as they are, where s^2 is 2; else too sure
    sharp, fair = (calibration_error(predictions(4000, sharpness=s)) for s in (6.0, 2.0**0.5))
    assert fair < 0.05 and sharp > 0.15


def test_intervals_hold_the_value_and_pairs_make_a_ratio_of_one() -> None:
    some = predictions()
    for measure in (macro_f1, calibration_error, mean_nats):
        interval = estimate(measure, [some])
        assert interval.value == pytest.approx(measure(some)) and interval.low < interval.high
    assert estimate(macro_f1, [some]).low < macro_f1(some) < estimate(macro_f1, [some]).high
    same = ratio(macro_f1, [some], [some])
    assert same.value == 1.0 and 0.9 < same.low < 1.0 < same.high < 1.1  # draws that are all alike know too much
    perfect = Predictions(some.labels, some.labels, np.ones(300), np.zeros(300))
    assert estimate(macro_f1, [perfect]).value == 1.0 and 0.98 < estimate(macro_f1, [perfect]).low < 1.0
    worse = ratio(macro_f1, [predictions(sharpness=6.0)], [some])
    assert worse.high < 1.0
