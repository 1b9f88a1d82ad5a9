"""The closed-form share on kernel ridge regression, where the paper proves it: against a grid, and the limit of its generations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attar.compressors.distill.losses.targets.target_ops import best_share, share_sums

RIDGE = 0.2


def kernel(first: np.ndarray, second: np.ndarray, width: float = 80.0) -> np.ndarray:
    return np.exp(-width * (first[:, None] - second[None, :]) ** 2)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, noisy labels, held-out points and what is true there."""
    generator = np.random.default_rng(seed)
    points, held = np.linspace(0, 1, 11), np.arange(0, 1.01, 0.01)
    return points, np.sin(2 * np.pi * points) + 0.5 * generator.standard_normal(11), held, np.sin(2 * np.pi * held)


def predicted(points: np.ndarray, targets: np.ndarray, at: np.ndarray) -> np.ndarray:
    gram = kernel(points, points)
    return kernel(at, points) @ np.linalg.solve(gram + RIDGE * np.eye(len(points)), targets)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_share_is_the_best_of_a_grid(seed: int) -> None:
    points, labels, held, truth = problem(seed)
    before = predicted(points, labels, points)  # the teacher: the first generation
    on_labels, on_teacher = predicted(points, labels, held), predicted(points, before, held)
    gap = on_labels - on_teacher
    share = best_share(float((truth - on_teacher) @ gap), float(gap @ gap))
    grid = np.linspace(0, 1, 2001)
    errors = [np.sum((predicted(points, a * labels + (1 - a) * before, held) - truth) ** 2) for a in grid]
    assert share == pytest.approx(grid[int(np.argmin(errors))], abs=1e-3)


@pytest.mark.parametrize("share", [0.35, 0.1, 1.0])
def test_generations_tend_to_a_ridge_with_less_regularisation(share: float) -> None:
    """y_t = S (a y + (1 - a) y_(t-1)), S = K (K + l I)^-1, tends to a K (a K + l I)^-1 y: the ridge with l / a. Without labels to zero."""
    points, labels, _, _ = problem(0)
    gram, eye = kernel(points, points), np.eye(len(points))
    now = labels
    for _ in range(400):
        now = predicted(points, share * labels + (1 - share) * now, points)
    np.testing.assert_allclose(now, share * gram @ np.linalg.solve(share * gram + RIDGE * eye, labels), atol=1e-10)
    alone = labels
    for _ in range(400):
        alone = predicted(points, alone, points)
    assert np.abs(alone).max() < 1e-6 < np.abs(now).max()


def test_sums_are_those_of_whole_vectors_and_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 7, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2))
    ids = torch.tensor([0, 3, 6, 2, 2])
    labels = torch.nn.functional.one_hot(ids, 7)
    numerator, denominator = share_sums(a, b, ids)
    assert numerator == pytest.approx(float(((labels - b) * (a - b)).sum()))
    assert denominator == pytest.approx(float((a - b).square().sum()))
    halves = [share_sums(a[rows], b[rows], ids[rows]) for rows in (slice(0, 2), slice(2, 5))]
    assert numerator == pytest.approx(sum(half for half, _ in halves))


def test_share_stays_a_share() -> None:
    assert [best_share(*pair) for pair in ((3.0, 2.0), (-1.0, 2.0), (1.0, 2.0), (0.0, 0.0))] == [1.0, 0.0, 0.5, 1.0]
