"""Which images without labels are learned from. The teacher's surest of each class, none that nearly repeats a protected image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Rows of a table of distances at a time.
CHUNK = 1024


def top_per_class(logits: Float[Tensor, "N K"], num_per_class: int) -> list[int]:
    """Return the images that stay, in their order. Of those whose likeliest class is k the `num_per_class` that it is likeliest for.

    Ties go to the earlier image. https://arxiv.org/abs/2103.05959
    """
    scores, classes = logits.float().softmax(dim=-1).max(dim=-1)
    chosen: list[int] = []
    for label in range(logits.shape[-1]):
        members = (classes == label).nonzero().flatten()
        order = torch.sort(scores[members], descending=True, stable=True).indices[:num_per_class]
        chosen += members[order].tolist()
    return sorted(chosen)


def nearest(codes: np.ndarray, protected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (bits by which each code of 64 differs from the nearest protected one, which that is). Some code must be protected."""
    distances, indices = np.empty(len(codes), int), np.empty(len(codes), int)
    for start in range(0, len(codes), CHUNK):
        some = slice(start, start + CHUNK)
        table = np.bitwise_count(codes[some, None] ^ protected[None])
        indices[some] = table.argmin(axis=1)
        distances[some] = table.min(axis=1)
    return distances, indices
