"""Combine two models by spherical interpolation of their weights, or of their changes from a common base."""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, sin, sqrt
from typing import Literal

import torch

from attar.compressors.merge.group import Merged, TensorGroup, combined, combined_deltas, gram
from attar.compressors.merge.setting import Setting, check_setting, resolve


@dataclass(frozen=True, kw_only=True)
class Slerp:
    """sin((1-t)w)/sin(w) a + sin(t w)/sin(w) b, with w the angle between a and b as flat vectors. https://arxiv.org/abs/2410.09982

    `t` in [0, 1], a number, anchors along the blocks or rules by name: 0 gives the first model. `on`: the `weights`, or the
    `deltas` from the base. Two students of one base have nearly parallel weights, where SLERP is LERP; their deltas are not.
    Vectors with |cos| above `lerp_above` take the LERP branch.
    """

    t: Setting = 0.5
    on: Literal["weights", "deltas"] = "weights"
    lerp_above: float = 0.9995

    def __post_init__(self) -> None:
        check_setting("t", self.t, low=0.0, high=1.0)
        check_setting("lerp_above", self.lerp_above, low=0.0, high=1.0)
        if self.on not in ("weights", "deltas"):
            raise ValueError(f"on is {self.on!r}; it must be 'weights' or 'deltas'")

    @property
    def needs_base(self) -> bool:
        return self.on == "deltas"

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 2

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the interpolated tensor; its branch is slerp, lerp or equal."""
        read = combined_deltas if self.needs_base else combined
        first, second = group.models
        if first.dtype == second.dtype and torch.equal(first, second):
            return Merged(combined(group, (1.0, 0.0)), "equal")
        inner = gram(group, of_deltas=self.needs_base)
        t, norms = resolve(self.t, group.location), sqrt(float(inner[0, 0] * inner[1, 1]))
        cosine = max(-1.0, min(1.0, float(inner[0, 1]) / norms)) if norms > 0 else 1.0
        if abs(cosine) > self.lerp_above:
            return Merged(read(group, (1.0 - t, t)), "lerp")
        angle = acos(cosine)
        return Merged(read(group, (sin((1.0 - t) * angle) / sin(angle), sin(t * angle) / sin(angle))), "slerp")
