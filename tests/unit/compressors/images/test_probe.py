"""Laws of probes: the matrix is logistic regression's, neighbours vote by likeness, features that say nothing tell nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attar.compressors.images.probe import linear_classes, nearest_classes


def clouds(count: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return points of three classes around a corner each, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    corners = 2.0 * torch.eye(3, 5)
    return corners[labels] + spread * torch.randn(count, 5, generator=generator), labels


def test_the_matrix_is_that_of_scikit_learn() -> None:
    """Of standardised features, at C = 1: the same classes, of points that lie near each other's."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    known, labels = clouds(60, 0)
    queries, _ = clouds(400, 1)
    # a direction of another scale, which standardising takes out
    known, queries = (points * torch.tensor([1, 1, 100, 1, 0.01]) + 7 for points in (known, queries))
    mean, deviation = known.double().mean(dim=0), known.double().std(dim=0)
    expected = linear_model.LogisticRegression(max_iter=1000, tol=1e-8).fit(
        ((known - mean) / deviation).numpy(), labels
    )
    classes = expected.predict(((queries - mean) / deviation).numpy())
    assert linear_classes(known, labels, queries).tolist() == classes.tolist()


def test_neighbours_vote_by_likeness() -> None:
    """Two neighbours in the same direction outvote three far off; a single neighbour is the nearest alone; length says nothing."""
    known = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([1, 1, 0, 0, 0])
    queries = torch.tensor([[5.0, 0.2], [0.01, 0.9]])
    assert nearest_classes(known, labels, queries, 5).tolist() == [1, 0]
    assert nearest_classes(known, labels, 100 * queries, 1).tolist() == [1, 0]
    assert nearest_classes(known, labels, queries, 50).tolist() == [1, 0], "more than there are: all"


@pytest.mark.parametrize("tell", [linear_classes, lambda *given: nearest_classes(*given, 20)])
def test_features_tell_what_is_in_them(tell: object) -> None:
    known, labels = clouds(300, 0)
    queries, own = clouds(300, 1)
    assert float((tell(known, labels, queries) == own).float().mean()) > 0.75  # type: ignore[operator]
    shuffled = labels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    # three classes, 300 points: chance is 0.33 +- 0.06 at two standard errors
    assert float((tell(known, shuffled, queries) == own).float().mean()) < 0.42  # type: ignore[operator]
