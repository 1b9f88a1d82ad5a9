"""Controls: what a metric must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ReverseOrder:
    """The last blocks go first. The score of a window is the number of blocks that stand behind its last one."""

    def __call__(self, num_blocks: int, generator: torch.Generator) -> Float[Tensor, "L L1"]:
        del generator
        return (num_blocks - torch.arange(num_blocks + 1, dtype=torch.float64)).expand(num_blocks, -1)


@dataclass(frozen=True)
class RandomScore:
    """A number in [0, 1) drawn for each window, independent of all others. Each window of a size is equally likely to go."""

    def __call__(self, num_blocks: int, generator: torch.Generator) -> Float[Tensor, "L L1"]:
        return torch.rand(num_blocks, num_blocks + 1, dtype=torch.float64, generator=generator)
