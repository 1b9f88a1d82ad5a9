"""Drop what models learned at random and scale up the rest before merging it, by coins that depend on name and seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import Merged, TensorGroup, combine
from attar.compressors.merge.linear import model_weights, normalized
from attar.compressors.merge.setting import Setting, check_setting, check_settings, resolve
from attar.compressors.merge.ties import agreed_sum

Rescale = Literal["density", "norm", "none"]
RESCALES = ("density", "norm", "none")
# A smaller sum of magnitudes says nothing to rescale by.
NORM_FLOOR = 1e-7


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
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.place)
        weights = normalized(weights, group.place) if self.normalize else weights
        factors = [scale * weight * factor for weight, factor in zip(weights, _factors(self, group), strict=True)]
        for kept, origin in _dropped(self, group):
            yield combine(list(kept), factors).add_(origin)


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
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.place)
        factors = torch.tensor(_factors(self, group))[:, None]
        for kept, origin in _dropped(self, group):
            yield agreed_sum(kept * factors, weights, self.normalize).mul_(scale).add_(origin)


def coins(seed: int, name: str, model_index: int) -> torch.Generator:
    """Return the generator that one tensor of one model is dropped by: merging in another order changes nothing."""
    digest = hashlib.sha256(f"{seed}/{name}/{model_index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _dropped(method: DareLinear | DareTies, group: TensorGroup) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (changes with the dropped ones zero, base). Every reading throws the same coins."""
    density = resolve(method.density, group.place)
    generators = [coins(method.seed, group.place.name, index) for index in range(len(group.models))]
    for deltas, origin in group.deltas():
        if density == 1.0:
            yield deltas, origin
            continue
        thrown = torch.stack([torch.rand(deltas.shape[1], generator=one) for one in generators])
        yield deltas * (thrown < density), origin


def _factors(method: DareLinear | DareTies, group: TensorGroup) -> list[float]:
    """Return what makes up for the dropped changes of each model."""
    density = resolve(method.density, group.place)
    if method.rescale == "none" or density == 1.0:
        return [1.0] * len(group.models)
    if method.rescale == "density":
        return [1.0 / density] * len(group.models)
    before = after = torch.zeros(len(group.models), dtype=torch.float64)
    for (deltas, _), (kept, _) in zip(group.deltas(), _dropped(method, group), strict=True):
        before = before + deltas.abs().double().sum(dim=1)
        after = after + kept.abs().double().sum(dim=1)
    is_known = (before > NORM_FLOOR) & (after > NORM_FLOOR)
    return torch.where(is_known, before / after.clamp(min=NORM_FLOOR), 1.0).tolist()


def _check(method: DareLinear | DareTies) -> None:
    check_settings("weights", method.weights)
    check_setting("density", method.density, low=0.0, high=1.0, is_open=True)
    check_setting("scale", method.scale)
    if method.rescale not in RESCALES:
        raise ValueError(f"rescale is {method.rescale!r}; it must be one of {', '.join(RESCALES)}")
    if isinstance(method.seed, bool) or not isinstance(method.seed, int):
        raise ValueError(f"seed is {method.seed!r}; it must be a whole number")
