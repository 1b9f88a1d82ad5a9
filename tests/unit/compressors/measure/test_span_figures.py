"""F1 of spans by hand, as seqeval counts it where that is installed, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from attar.compressors.data.spans import tags_for
from attar.compressors.measure.classes import (
    SpanCounts,
    estimate,
    macro_span_f1,
    ratio,
    span_f1,
    span_precision,
    span_recall,
    word_accuracy,
)

TAGS = tags_for(["Drug", "Effect"])
# of three texts: a right drug and an effect predicted too short; a drug that is not there; a right effect of two words, predicted as one of each
GOLD = [["B-Drug", "O", "B-Effect", "I-Effect"], ["O", "O"], ["B-Effect", "I-Effect", "O"]]
PREDICTED = [["B-Drug", "O", "B-Effect", "O"], ["B-Drug", "O"], ["B-Effect", "I-Effect", "B-Drug"]]


def drawn_tags(seed: int, num_texts: int = 40) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    return [list(generator.choice(TAGS, size=generator.integers(1, 12))) for _ in range(num_texts)]


def test_three_texts_by_hand() -> None:
    counts = SpanCounts.of(PREDICTED, GOLD, TAGS)
    # right: the first drug, the last effect; predicted: 5; there: 3
    assert counts.hits.sum() == 2 and counts.predicted.sum() == 5 and counts.gold.sum() == 3
    assert span_precision(counts) == pytest.approx(2 / 5) and span_recall(counts) == pytest.approx(2 / 3)
    assert span_f1(counts) == pytest.approx(2 * 2 / (5 + 3))
    # drugs: 1 right of 3 predicted and 1 there; effects: 1 right of 2 predicted and 2 there
    assert macro_span_f1(counts) == pytest.approx((2 * 1 / (3 + 1) + 2 * 1 / (2 + 2)) / 2)
    assert word_accuracy(counts) == pytest.approx(6 / 9)
    assert counts.right.tolist() == [0.0, 0.0, 0.0]
    assert span_f1(SpanCounts.of(GOLD, GOLD, TAGS)) == 1.0
    nothing = [["O"] * len(text) for text in GOLD]
    assert span_f1(SpanCounts.of(nothing, GOLD, TAGS)) == 0.0 == span_f1(SpanCounts.of(nothing, nothing, TAGS))


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_seqeval(seed: int) -> None:
    metrics = pytest.importorskip("seqeval.metrics", reason="the peer is in no extra of ours")
    gold, predicted = drawn_tags(seed), drawn_tags(seed)
    generator = np.random.default_rng(seed + 100)
    predicted = [
        [tag if generator.random() < 0.7 else str(generator.choice(TAGS)) for tag in text] for text in predicted
    ]
    counts = SpanCounts.of(predicted, gold, TAGS)
    assert span_f1(counts) == pytest.approx(metrics.f1_score(gold, predicted))
    assert span_precision(counts) == pytest.approx(metrics.precision_score(gold, predicted))
    assert span_recall(counts) == pytest.approx(metrics.recall_score(gold, predicted))
    assert macro_span_f1(counts) == pytest.approx(metrics.f1_score(gold, predicted, average="macro"))
    assert word_accuracy(counts) == pytest.approx(metrics.accuracy_score(gold, predicted))


def test_an_interval_holds_the_figure_and_is_of_texts() -> None:
    gold = drawn_tags(7)
    generator = np.random.default_rng(8)
    predicted = [[tag if generator.random() < 0.8 else "O" for tag in text] for text in gold]
    counts = SpanCounts.of(predicted, gold, TAGS)
    first = estimate(span_f1, [counts])
    assert first.low < first.value < first.high and first.value == span_f1(counts)
    four = counts.chosen(np.tile(np.arange(len(gold)), 4))
    assert (wide := first.high - first.low) and estimate(span_f1, [four]).high - estimate(
        span_f1, [four]
    ).low < 0.7 * wide
    same = ratio(span_f1, [counts], [counts])
    assert same.value == 1.0 and same.low <= 1.0 <= same.high
    perfect = estimate(span_f1, [SpanCounts.of(gold, gold, TAGS)])
    assert perfect.value == 1.0 and perfect.low < 1.0
