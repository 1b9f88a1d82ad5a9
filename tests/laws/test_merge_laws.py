"""Merge methods against their formulas written down by hand: three models, uneven weights, coins of their own."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.merge.sparse import coins
from tests.unit.compressors.merge.test_merge_methods import merged, tensor


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_each_model_throws_its_own_coins(name: str) -> None:
    """Two models of the same change: both keep a weight with chance density squared, never one whenever the other does."""
    base, change, density = torch.zeros(20_000), torch.ones(20_000), 0.5
    made = merged(name, [change, change.clone()], base, weights=[1.0, 1.0], density=density, rescale="none")
    shares = [float((made == count).double().mean()) for count in (0.0, 1.0, 2.0)]
    # standard deviation of such a share is 0.0035 at most
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert coins(0, "w", 0).initial_seed() != coins(0, "w", 1).initial_seed() != coins(1, "w", 1).initial_seed()
    assert coins(0, "v", 0).initial_seed() != coins(0, "w", 0).initial_seed()


def test_the_mean_of_dropped_changes_is_the_change() -> None:
    base, change = tensor(4000), tensor(4000, seed=1)
    total = sum(
        merged("dare_linear", [base + change], base, weights=[1.0], density=0.4, seed=seed) for seed in range(300)
    )
    off = (total / 300 - base - change) / change.abs().clamp(min=0.05)  # type: ignore[operator]
    # each mean has a relative deviation of sqrt(0.6 / 0.4 / 300) = 0.07
    assert float(off.abs().mean()) < 0.08 and abs(float(off.mean())) < 0.01


@pytest.mark.parametrize(
    ("changes", "weights", "is_mean", "expected"),
    [
        # two small against one large: the sum decides, not the count
        ([1.0, 1.0, -5.0], [1.0, 1.0, 1.0], True, -5.0),
        ([1.0, 1.0, -5.0], [1.0, 1.0, 0.1], True, 1.0),
        ([1.0, 3.0, -1.0], [2.0, 1.0, 1.0], True, 5.0 / 3.0),
        ([1.0, 3.0, -1.0], [2.0, 1.0, 1.0], False, 5.0),
        ([2.0, -2.0, 0.0], [1.0, 1.0, 1.0], True, 2.0),  # a tie is positive; what is zero takes no side
    ],
)
def test_ties_elects_by_the_weighted_sum(
    changes: list[float], weights: list[float], is_mean: bool, expected: float
) -> None:
    base = torch.full((3,), 10.0)
    models = [base + change for change in changes]
    made = merged("ties", models, base, weights=weights, density=1.0, normalize=is_mean, scale=0.5)
    assert made.tolist() == pytest.approx([10.0 + 0.5 * expected] * 3)


@pytest.mark.parametrize("num_models", [2, 3, 5])
def test_model_stock_goes_as_far_as_its_formula_says(num_models: int) -> None:
    """t = N c / (1 + (N - 1) c), c the mean cosine of all pairs of changes."""
    base, shared = tensor(60), tensor(60, seed=9)
    models = [base + shared + 0.8 * tensor(60, seed=seed + 1) for seed in range(num_models)]
    changes = [(model - base).double() for model in models]
    cosines = [
        float(changes[a] @ changes[b] / (changes[a].norm() * changes[b].norm()))
        for a in range(num_models)
        for b in range(a)
    ]
    cosine = sum(cosines) / len(cosines)
    t = num_models * cosine / (1 + (num_models - 1) * cosine)
    expected = base.double() + t * sum(changes) / num_models
    torch.testing.assert_close(merged("model_stock", models, base).double(), expected, atol=1e-5, rtol=1e-5)
    assert t < 0.97, "another N would be seen"
