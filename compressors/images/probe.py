"""Tell classes by features of images that stay as they are, by the nearest neighbours and by logistic regression."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Of the similarities of neighbours, as published. https://arxiv.org/abs/2104.14294
TEMPERATURE = 0.07
MAX_ITERATIONS = 400


def nearest_classes(
    known: Float[Tensor, "N F"], labels: Int[Tensor, "N"], queries: Float[Tensor, "M F"], num_neighbours: int
) -> Int[Tensor, "M"]:
    """Return the class that most of the nearest known features are of, each weighed by exp(cosine / 0.07). https://arxiv.org/abs/1805.01978"""
    known, queries = (nn.functional.normalize(features.double(), dim=1) for features in (known, queries))
    likeness, rows = (queries @ known.T).topk(min(num_neighbours, len(known)), dim=1)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, dtype=torch.double)
    votes.scatter_add_(1, labels[rows], (likeness / TEMPERATURE).exp())
    return votes.argmax(dim=1)


def linear_classes(
    known: Float[Tensor, "N F"], labels: Int[Tensor, "N"], queries: Float[Tensor, "M F"]
) -> Int[Tensor, "M"]:
    """Return the class that logistic regression on the known features takes each query for.

    It minimises sum_n CE_n + |W|^2 / 2 of features that are standardised by the known ones, to the end: nothing is drawn, nothing stopped.
    """
    mean, deviation = known.double().mean(dim=0), known.double().std(dim=0).clamp(min=1e-8)
    known, queries = ((features.double() - mean) / deviation for features in (known, queries))
    num_classes = int(labels.max()) + 1
    weight = torch.zeros(num_classes, known.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        # divided by the rows, which moves no minimum and keeps tolerances those of one
        penalty = weight.square().sum() / (2 * len(known))
        total = nn.functional.cross_entropy(known @ weight.T + bias, labels) + penalty
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[arg-type] - a float is a tensor of none
    return (queries @ weight.T + bias).detach().argmax(dim=1)
