"""Combine two models by spherical interpolation of their weights, or of their changes from a common base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Branch = Literal["slerp", "lerp", "equal"]


@dataclass(frozen=True, kw_only=True)
class Slerp:
    """sin((1-t)w)/sin(w) a + sin(t w)/sin(w) b, with w the angle between a and b as flat vectors. https://arxiv.org/abs/2410.09982

    `t` in [0, 1]: 0 gives the first model. `on`: the `weights`, or the `deltas` from the base. Two students of one base have nearly
    parallel weights, where SLERP is LERP; their deltas are not. Vectors with |cos| above `lerp_above` take the LERP branch.
    """

    t: float = 0.5
    on: Literal["weights", "deltas"] = "weights"
    lerp_above: float = 0.9995

    def __post_init__(self) -> None:
        if not 0.0 <= self.t <= 1.0:
            raise ValueError(f"t is {self.t}; it must lie in [0, 1]")
        if self.on not in ("weights", "deltas"):
            raise ValueError(f"on is {self.on!r}; it must be 'weights' or 'deltas'")

    def __call__(
        self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Branch]]:
        """Return (merged weights in the first's dtype, which branch each tensor took). All three have the same names and shapes."""
        merged: dict[str, Tensor] = {}
        branches: dict[str, Branch] = {}
        for name, weight in first.items():
            if second[name].shape != weight.shape:
                raise ValueError(f"{name}: {tuple(weight.shape)} and {tuple(second[name].shape)} cannot be merged")
            origin = base[name].float() if self.on == "deltas" else torch.zeros(())
            combined, branches[name] = self._merge(weight.float() - origin, second[name].float() - origin)
            merged[name] = (combined + origin).to(weight.dtype)
        return merged, branches

    def _merge(self, first: Float[Tensor, ...], second: Float[Tensor, ...]) -> tuple[Float[Tensor, ...], Branch]:
        if torch.equal(first, second):
            return first, "equal"
        a, b = first.double().flatten(), second.double().flatten()
        norms = a.norm() * b.norm()
        cosine = (a @ b / norms).clamp(-1.0, 1.0) if norms > 0 else a.new_ones(())
        if cosine.abs() > self.lerp_above:
            return torch.lerp(first, second, self.t), "lerp"
        angle = cosine.arccos()
        weights = torch.sin((1.0 - self.t) * angle) / angle.sin(), torch.sin(self.t * angle) / angle.sin()
        return (weights[0] * a + weights[1] * b).reshape(first.shape).float(), "slerp"


MERGE_METHODS: dict[str, type[Slerp]] = {"slerp": Slerp}
