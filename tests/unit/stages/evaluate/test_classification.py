"""Figures of classifiers against scikit-learn's, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from attar.stages.evaluate.images.classification import (
    Classified,
    area,
    calibration_error,
    estimated,
    macro_accuracy,
    tail_accuracy,
    tail_classes,
)


@pytest.fixture
def rows() -> Classified:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    logits = generator.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    return Classified(labels, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def test_figures_are_scikit_learn_s(rows: Classified) -> None:
    probabilities = np.exp(rows.logprobs)
    assert macro_accuracy(rows) == pytest.approx(balanced_accuracy_score(rows.labels, rows.predicted))
    assert area(rows) == pytest.approx(roc_auc_score(rows.labels, probabilities, multi_class="ovr", average="macro"))
    assert np.array_equal(rows.confusion(), confusion_matrix(rows.labels, rows.predicted, labels=range(4)))


def test_calibration_is_none_where_confidence_is_accuracy() -> None:
    labels = np.array([0, 0, 0, 1])
    sure = Classified(labels, np.log(np.tile([0.75, 0.25], (4, 1))))
    assert calibration_error(sure) == pytest.approx(0.0)
    too_sure = Classified(labels, np.log(np.tile([0.999, 0.001], (4, 1))))
    assert calibration_error(too_sure) == pytest.approx(0.249)


def test_rare_classes_are_the_third_with_fewest_rows(rows: Classified) -> None:
    assert tail_classes([90, 5, 30, 7, 60, 50]) == [1, 3] and tail_classes([3, 3]) == [1]
    only = rows.labels == 3
    assert tail_accuracy(rows, [9, 8, 7, 1]) == pytest.approx(rows.right[only].mean())


def test_an_interval_holds_the_figure_and_narrows_with_rows(rows: Classified) -> None:
    twice = rows.drawn(np.tile(np.arange(200), 4))
    first, second = estimated(rows, macro_accuracy), estimated(twice, macro_accuracy)
    assert first.low < first.value < first.high and first.value == pytest.approx(second.value)
    assert second.high - second.low < 0.7 * (first.high - first.low)


def test_a_single_class_has_no_area() -> None:
    assert np.isnan(area(Classified(np.zeros(3, int), np.log(np.full((3, 2), 0.5)))))
