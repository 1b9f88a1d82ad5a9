"""Merge what several models learned after trimming it and settling on one sign for every weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import Merged, TensorGroup
from attar.compressors.merge.linear import model_weights
from attar.compressors.merge.setting import Setting, resolve
from attar.compressors.merge.sparse import agreed_sum, check_sparse, largest


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
        check_sparse(self.weights, self.density, self.scale)

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
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.location)
        for trimmed, origin in largest(group, self.density):
            yield agreed_sum(trimmed, weights, self.normalize).mul_(scale).add_(origin)
