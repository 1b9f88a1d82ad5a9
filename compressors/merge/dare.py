"""Drop updates at random and scale up the rest before merging (DARE). The coins depend on name and seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import Merged, TensorGroup, combine
from attar.compressors.merge.linear import model_weights, normalized
from attar.compressors.merge.setting import Setting, resolve
from attar.compressors.merge.sparse import RESCALES, Rescale, agreed_sum, check_sparse, drawn, rescaling


@dataclass(frozen=True, kw_only=True)
class DareLinear:
    """b + scale * sum w_i m_i (x_i - b) / density, m_i coins that are 1 with chance `density`. https://arxiv.org/abs/2311.03099

    `rescale`: by the `density` as in the paper, by the `norm` (the sum of magnitudes stays as it was), or `none`.
    Each tensor of each model has a generator of its own, seeded by `seed`, its name and the model's place.
    """

    weights: Sequence[Setting] = ()
    density: Setting = 0.5
    scale: Setting = 1.0
    normalize: bool = False
    rescale: Rescale = "density"
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def num_models(self) -> tuple[int, int]:
        return 1, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the merged tensor."""
        return Merged(self._chunks(group), "dare_linear")

    def _chunks(self, group: TensorGroup) -> Iterator[Float[Tensor, "C"]]:
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.location)
        weights = normalized(weights, group.location) if self.normalize else weights
        made_up = rescaling(group, self.density, self.seed, self.rescale)
        factors = [scale * weight * factor for weight, factor in zip(weights, made_up, strict=True)]
        for mask, origin in drawn(group, self.density, self.seed):
            yield combine(list(mask), factors).add_(origin)


@dataclass(frozen=True, kw_only=True)
class DareTies:
    """DARE's dropped and rescaled changes, merged where they agree with the elected sign as TIES does. https://arxiv.org/abs/2311.03099

    Fields as in DARE linear; `normalize` divides each weight by the weights of the models that agree there.
    """

    weights: Sequence[Setting] = ()
    density: Setting = 0.5
    scale: Setting = 1.0
    normalize: bool = False
    rescale: Rescale = "density"
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the merged tensor."""
        return Merged(self._chunks(group), "dare_ties")

    def _chunks(self, group: TensorGroup) -> Iterator[Float[Tensor, "C"]]:
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.location)
        factors = torch.tensor(rescaling(group, self.density, self.seed, self.rescale))[:, None]
        for mask, origin in drawn(group, self.density, self.seed):
            yield agreed_sum(mask * factors, weights, self.normalize).mul_(scale).add_(origin)


def _check(method: DareLinear | DareTies) -> None:
    check_sparse(method.weights, method.density, method.scale)
    if method.rescale not in RESCALES:
        raise ValueError(f"rescale is {method.rescale!r}; it must be one of {', '.join(RESCALES)}")
    if isinstance(method.seed, bool) or not isinstance(method.seed, int):
        raise ValueError(f"seed is {method.seed!r}; it must be a whole number")
