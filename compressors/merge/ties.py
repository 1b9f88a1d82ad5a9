"""Merge what several models learned after trimming it and settling on one sign for every weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import Merged, TensorGroup
from attar.compressors.merge.linear import model_weights
from attar.compressors.merge.setting import Setting, check_setting, check_settings, resolve
from attar.compressors.merge.trim import Trimmer, magnitude_cuts


@dataclass(frozen=True, kw_only=True)
class Ties:
    """b + scale * disjoint mean of the trimmed changes that agree with the elected sign. https://arxiv.org/abs/2306.01708

    Of each model's change the `density` in (0, 1] largest numbers stay (rounded down, at least one; of equal ones the first);
    the sign of their weighted sum is elected, and those of that sign are averaged by weight, or with `normalize` false added up.
    """

    weights: Sequence[Setting] = ()
    density: Setting = 0.2
    scale: Setting = 1.0
    normalize: bool = True

    def __post_init__(self) -> None:
        check_settings("weights", self.weights)
        check_setting("density", self.density, low=0.0, high=1.0, is_open=True)
        check_setting("scale", self.scale)

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the merged tensor."""
        return Merged(self._chunks(group), "ties")

    def _chunks(self, group: TensorGroup) -> Iterator[Float[Tensor, "C"]]:
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.place)
        num_kept = max(1, int(resolve(self.density, group.place) * group.num_elements))
        trimmer = None
        if num_kept < group.num_elements:
            passes = [(deltas for deltas, _ in group.deltas()) for _ in range(2)]
            trimmer = Trimmer(magnitude_cuts(passes, [num_kept] * len(group.models)))
        for deltas, origin in group.deltas():
            kept = deltas * trimmer.kept(deltas) if trimmer else deltas
            yield agreed_sum(kept, weights, self.normalize).mul_(scale).add_(origin)


def agreed_sum(deltas: Float[Tensor, "M C"], weights: Sequence[float], is_mean: bool) -> Float[Tensor, "C"]:
    """Return the weighted sum, or mean, of those changes whose weighted sign is that of their weighted sum; zeros take no side."""
    factors = torch.tensor(weights, dtype=deltas.dtype)[:, None]
    weighted = deltas * factors
    elected = torch.where(weighted.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = weighted.sign() == elected
    total = (weighted * agrees).sum(dim=0)
    if not is_mean:
        return total
    divisor = (factors * agrees).sum(dim=0)
    return total / torch.where(divisor == 0, 1.0, divisor)
