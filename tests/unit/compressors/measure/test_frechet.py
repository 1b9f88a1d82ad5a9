"""Distances between sets of features, where they are known."""

from __future__ import annotations

from statistics import stdev

import pytest
import torch

from attar.compressors.diffusion.frechet import bootstrap_draws, frechet_distance, precision_and_recall


def normal(num_points: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(num_points, 4, generator=generator, dtype=torch.float64)


def test_the_distance_of_a_set_from_itself_is_zero_and_of_shifted_ones_the_square_of_the_shift() -> None:
    points = normal(400, 0)
    assert frechet_distance(points, points) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(points, points + 0.5) == pytest.approx(4 * 0.25, rel=1e-6)


def test_the_distance_of_scaled_gaussians_is_that_of_their_deviations() -> None:
    points = normal(4000, 1)
    centred = points - points.mean(dim=0)
    expected = float(centred.T.cov().diagonal().sum())  # (2 - 1)^2 times each variance
    assert frechet_distance(centred, 2.0 * centred) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="1 images have no spread; accepted: 2 or more"):
        frechet_distance(points[:1], points)


def test_precision_falls_with_points_off_the_data_and_recall_with_data_left_out() -> None:
    real = torch.cat([normal(200, 2), normal(200, 3, mean=20.0)])
    assert precision_and_recall(real, real) == (1.0, 1.0)
    off = torch.cat([real[:100], normal(100, 4, mean=100.0, scale=0.1)])
    precision, recall = precision_and_recall(off, real)
    assert precision == 0.5 and recall < 0.6
    precision, recall = precision_and_recall(normal(200, 5), real)  # one of the two halves is never made
    assert precision > 0.8 and recall == pytest.approx(0.5, abs=0.05)


def test_the_deviation_over_draws_is_that_of_the_mean() -> None:
    points = normal(400, 6)[:, 0]

    def statistics(chosen: torch.Tensor) -> dict[str, float]:
        return {"mean": float(points[chosen].mean()), "fixed": 1.0}

    labels = torch.zeros(400, dtype=torch.long)
    draws = bootstrap_draws(statistics, labels, 200)
    assert stdev(draws["mean"]) == pytest.approx(float(points.std()) / 20.0, rel=0.15) and {*draws["fixed"]} == {1.0}
    assert draws == bootstrap_draws(statistics, labels, 200), "the same draws, so that two models' are pairs"


def test_points_are_drawn_within_their_class_so_that_what_classes_differ_by_is_no_spread() -> None:
    labels = torch.arange(30) % 3
    points = 100.0 * labels.double()

    def statistics(chosen: torch.Tensor) -> dict[str, float]:
        assert torch.equal(labels[chosen], labels)
        return {"mean": float(points[chosen].mean()), "first": float(chosen[0])}

    draws = bootstrap_draws(statistics, labels, 40)
    assert {*draws["mean"]} == {100.0} and len({*draws["first"]}) > 5
