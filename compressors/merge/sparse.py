"""Sparse changes from the base, for TIES and DARE. Which numbers stay, by size or by coins, what makes up for the rest, and the agreed sum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.group import TensorGroup
from attar.compressors.merge.setting import Setting, check_setting, check_settings, resolve
from attar.compressors.merge.trim import Trimmer, magnitude_cuts

Rescale = Literal["density", "norm", "none"]
RESCALES = ("density", "norm", "none")
# A smaller sum of magnitudes says nothing to rescale by.
NORM_FLOOR = 1e-7
# Of one chunk: the changes of all models with those that went at zero, and the base.
Sparse = tuple[Float[Tensor, "M C"], Float[Tensor, "C"]]


def check_sparse(weights: Sequence[Setting], density: Setting, scale: Setting) -> None:
    """Raise ValueError for weights, a density or a scale that no sparse merge takes."""
    check_settings("weights", weights)
    check_setting("density", density, low=0.0, high=1.0, is_open=True)
    check_setting("scale", scale)


def largest(group: TensorGroup, density: Setting) -> Iterator[Sparse]:
    """Yield each model's `density` largest changes: rounded down, at least one; of equal ones the first."""
    num_kept = max(1, int(resolve(density, group.location) * group.num_elements))
    trimmer = None
    if num_kept < group.num_elements:
        passes = [(deltas for deltas, _ in group.deltas()) for _ in range(2)]
        trimmer = Trimmer(magnitude_cuts(passes, [num_kept] * len(group.models)))
    for deltas, origin in group.deltas():
        yield deltas * trimmer.mask(deltas) if trimmer else deltas, origin


def drawn(group: TensorGroup, density: Setting, seed: int) -> Iterator[Sparse]:
    """Yield the changes that coins with chance `density` leave. Every reading throws the same coins."""
    chance = resolve(density, group.location)
    generators = [coins(seed, group.location.name, index) for index in range(len(group.models))]
    for deltas, origin in group.deltas():
        if chance == 1.0:
            yield deltas, origin
            continue
        thrown = torch.stack([torch.rand(deltas.shape[1], generator=generator) for generator in generators])
        yield deltas * (thrown < chance), origin


def coins(seed: int, name: str, model_index: int) -> torch.Generator:
    """Return the generator that one tensor of one model is dropped by: merging in another order changes nothing."""
    digest = hashlib.sha256(f"{seed}/{name}/{model_index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rescaling(group: TensorGroup, density: Setting, seed: int, rescale: Rescale) -> list[float]:
    """Return what makes up for the changes of each model that coins dropped. By density, by the sum of magnitudes, or not at all."""
    chance = resolve(density, group.location)
    if rescale == "none" or chance == 1.0:
        return [1.0] * len(group.models)
    if rescale == "density":
        return [1.0 / chance] * len(group.models)
    before = after = torch.zeros(len(group.models), dtype=torch.float64)
    for (deltas, _), (mask, _) in zip(group.deltas(), drawn(group, density, seed), strict=True):
        before = before + deltas.abs().double().sum(dim=1)
        after = after + mask.abs().double().sum(dim=1)
    is_known = (before > NORM_FLOOR) & (after > NORM_FLOOR)
    return torch.where(is_known, before / after.clamp(min=NORM_FLOOR), 1.0).tolist()


def agreed_sum(deltas: Float[Tensor, "M C"], weights: Sequence[float], is_mean: bool) -> Float[Tensor, "C"]:
    """Return the weighted sum, or mean, of those changes whose weighted sign is that of their weighted sum. Zeros take no side."""
    factors = torch.tensor(weights, dtype=deltas.dtype)[:, None]
    weighted = deltas * factors
    elected = torch.where(weighted.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = weighted.sign() == elected
    total = (weighted * agrees).sum(dim=0)
    if not is_mean:
        return total
    divisor = (factors * agrees).sum(dim=0)
    return total / torch.where(divisor == 0, 1.0, divisor)
