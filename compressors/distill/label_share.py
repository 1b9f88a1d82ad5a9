"""The share of the labels in a target of labels and teacher that fits held-out labels best, without a search."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def share_sums(
    on_labels: Float[Tensor, "N V"], on_teacher: Float[Tensor, "N V"], label_ids: Int[Tensor, "N"]
) -> tuple[float, float]:
    """Return (<y - b, a - b>, ||a - b||^2) over N held-out tokens: what `best_share` divides, to be added up over batches.

    a and b: probabilities of the student fitted to the labels alone, and of the one fitted to the teacher alone; y: one-hot labels.
    """
    gap = on_labels - on_teacher
    at_label = gap.gather(-1, label_ids[:, None]).squeeze(-1)
    numerator = at_label - torch.linalg.vecdot(on_teacher, gap)
    return float(numerator.sum()), float(torch.linalg.vecdot(gap, gap).sum())


def best_share(numerator: float, denominator: float) -> float:
    """Return alpha = <y - b, a - b> / ||a - b||^2 within [0, 1]: the least held-out squared error of alpha a + (1 - alpha) b.

    Exact where predictions are affine in alpha, as in kernel ridge regression; two trainings instead of one for each alpha of a grid.
    Students that predict the same leave it open: then 1, the labels. https://arxiv.org/abs/2102.13088
    """
    return 1.0 if denominator == 0.0 else min(1.0, max(0.0, numerator / denominator))
