"""Weight norm: the baseline that looks at no data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Magnitude:
    """Sum over a block's matrices of |w| (https://arxiv.org/abs/2402.02834). Norms and biases, which are vectors, do not count."""

    def __call__(self, weights: Iterable[Tensor]) -> float:
        return sum(float(weight.detach().abs().sum(dtype=torch.float64)) for weight in weights if weight.ndim >= 2)
