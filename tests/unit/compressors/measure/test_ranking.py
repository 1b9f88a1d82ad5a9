"""Rank correlation and retrieval against scipy, scikit-learn and counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attar.compressors.measure.ranking import Ranked, ranked, spearman, spearman_estimate, spearman_ratio


def test_spearman_is_scipy_s_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for _ in range(5):
        values, scores = generator.normal(size=40), generator.integers(0, 5, 40).astype(float)
        assert spearman(values, scores) == pytest.approx(stats.spearmanr(values, scores).statistic, abs=1e-12)
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0]))


def test_the_interval_holds_the_value_and_narrows_with_pairs() -> None:
    generator = np.random.default_rng(1)
    widths = []
    for count in (50, 800):
        scores = generator.normal(size=count)
        values = scores + generator.normal(size=count)
        estimate = spearman_estimate([(values.tolist(), scores.tolist())])
        assert estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] < 0.5 * widths[0]


def test_a_ratio_in_pairs_is_narrower_than_apart() -> None:
    generator = np.random.default_rng(2)
    scores = generator.normal(size=200)
    baseline = scores + 0.5 * generator.normal(size=200)
    candidate = baseline + 0.05 * generator.normal(size=200)
    ratio = spearman_ratio([candidate.tolist()], [baseline.tolist()], [scores.tolist()])
    assert ratio.low < ratio.value < ratio.high and ratio.high - ratio.low < 0.05
    same = spearman_ratio([baseline.tolist()], [baseline.tolist()], [scores.tolist()])
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_ranks_are_counted_and_ties_go_against_the_model() -> None:
    corpus = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    queries = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    rankings = ranked(queries, corpus, [{0}, {1, 2}])
    assert rankings[0] == Ranked((1,))
    # text 3 lies as near as text 1 and stands before it; text 2 comes after both
    assert rankings[1] == Ranked((2, 3))
    assert rankings[1].reciprocal == 0.5 and rankings[1].recall(2) == 0.5 and rankings[1].recall(10) == 1.0


def test_ndcg_is_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(3)
    similarity = generator.normal(size=30)
    right = {4, 9, 20}
    relevance = np.array([[float(index in right) for index in range(30)]])
    order = np.argsort(-similarity)
    ranks = tuple(sorted(int(np.where(order == index)[0][0]) + 1 for index in right))
    assert Ranked(ranks).ndcg == pytest.approx(metrics.ndcg_score(relevance, similarity[None], k=10))
