"""Means of several models that know geometry. The point a stock of fine-tunings points to, and the mean on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import Merged, TensorGroup, combined, combined_deltas, gram


@dataclass(frozen=True, kw_only=True)
class ModelStock:
    """Model Stock. b + t (mean(x_i) - b), t = N c / (1 + (N - 1) c), c the mean cosine between the changes x_i - b. https://arxiv.org/abs/2403.19522

    One t a tensor. Where 1 + (N - 1) c is zero (changes that cancel) the base stays.
    """

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the interpolated tensor."""
        num_models = len(group.models)
        inner = gram(group, of_deltas=True)
        norms = inner.diagonal().sqrt()
        pairs = list(combinations(range(num_models), 2))
        cosines = [float(inner[a, b] / (norms[a] * norms[b]).clamp(min=1e-6)) for a, b in pairs]
        cosine = sum(max(-1.0, min(1.0, cosine)) for cosine in cosines) / len(cosines)
        divisor = 1.0 + (num_models - 1) * cosine
        t = num_models * cosine / divisor if abs(divisor) >= 1e-6 else 0.0
        return Merged(combined_deltas(group, [t / num_models] * num_models), "model_stock")


@dataclass(frozen=True, kw_only=True)
class Karcher:
    """Mean direction on the unit sphere (the point with the least sum of squared angles), times the mean norm.

    Fixed-point iteration m <- exp_m(mean_i log_m(x_i / |x_i|)), at most `num_iterations` times, until a step is below `tolerance`
    radians. All steps lie in the span of the models, so that it runs on their inner products. https://arxiv.org/abs/2603.04972
    """

    num_iterations: int = 10
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not (isinstance(self.num_iterations, int) and self.num_iterations >= 1):
            raise ValueError(f"num_iterations is {self.num_iterations!r}; it must be 1 or more")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance!r}; it must be above 0 radians")

    @property
    def needs_base(self) -> bool:
        return False

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the mean; models whose tensor is zero count in the norm alone."""
        inner = gram(group)
        norms = inner.diagonal().sqrt()
        valid = [index for index in range(len(group.models)) if norms[index] > self.tolerance]
        coefficients = torch.zeros(len(group.models), dtype=torch.float64)
        if valid:
            cosines = inner[valid][:, valid] / torch.outer(norms[valid], norms[valid])
            coefficients[valid] = self._direction(cosines) / norms[valid] * norms.mean()
        return Merged(combined(group, coefficients.tolist()), "karcher")

    def _direction(self, cosines: Float[Tensor, "M M"]) -> Float[Tensor, "M"]:
        """Return the mean direction as coefficients of the unit vectors whose inner products are given."""
        num_models = len(cosines)
        mean = torch.full((num_models,), 1.0 / num_models, dtype=torch.float64)
        if _norm(mean, cosines) < self.tolerance:  # they cancel: start at one of them
            mean = torch.eye(num_models, dtype=torch.float64)[0]
        mean = mean / _norm(mean, cosines)
        for _ in range(self.num_iterations):
            step = self._step(mean, cosines)
            length = _norm(step, cosines)
            if length < self.tolerance:
                break
            mean = length.cos() * mean + length.sin() / length * step
            mean = mean / _norm(mean, cosines)
        return mean

    def _step(self, mean: Float[Tensor, "M"], cosines: Float[Tensor, "M M"]) -> Float[Tensor, "M"]:
        """Return the mean of the directions from `mean` to each unit vector, as long as their angles."""
        step = torch.zeros_like(mean)
        for index, unit in enumerate(torch.eye(len(mean), dtype=torch.float64)):
            cosine = (mean @ cosines[index]).clamp(-1.0, 1.0)
            angle = cosine.arccos()
            if angle >= self.tolerance:
                step += angle / angle.sin() / len(mean) * (unit - cosine * mean)
        return step


def _norm(coefficients: Float[Tensor, "M"], cosines: Float[Tensor, "M M"]) -> Float[Tensor, ""]:
    return (coefficients @ cosines @ coefficients).clamp(min=0.0).sqrt()
