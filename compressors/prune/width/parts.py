"""One feed-forward channel or KV group. The rows and columns of the matrices, and the entries of vectors, that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from attar.compressors.models.exits import Matrix


@dataclass(frozen=True)
class Rows:
    """Outputs of `matrix` that make the units: unit u owns `width` of them, from `start + u * width` on."""

    matrix: Matrix
    start: int
    width: int

    def of(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the output indices of some units, in order."""
        return self.start + _spread(units, self.width)


@dataclass(frozen=True)
class Vector:
    """A parameter whose first dimension follows the units, `width` entries each. Sinks, or a norm's row for each head."""

    module: nn.Module
    name: str
    width: int

    def of(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the indices of some units, in order."""
        return _spread(units, self.width)


@dataclass(frozen=True)
class Part:
    """A place in a block where units can be taken out. `entries` make them, `exit` reads `unit_width` inputs of each.

    `head_dim`: of a KV group whose config says it; 0 where other settings do, as over latents.
    """

    num_units: int
    entries: tuple[Rows, ...]
    exit: Matrix
    unit_width: int
    block: nn.Module
    vectors: tuple[Vector, ...] = ()
    head_dim: int = 0

    def exit_columns(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the inputs of `exit` that some units feed."""
        return _spread(units, self.unit_width)

    @property
    def unit_parameters(self) -> int:
        """Parameters that one unit costs: its rows with their biases, and its columns."""
        rows = sum(rows.width * (num_inputs(rows.matrix) + (rows.matrix.bias is not None)) for rows in self.entries)
        sizes = [getattr(vector.module, vector.name) for vector in self.vectors]
        return rows + self.unit_width * num_outputs(self.exit) + sum(size.numel() // self.num_units for size in sizes)


def num_inputs(matrix: Matrix) -> int:
    """Return how many numbers a matrix reads."""
    return matrix.in_features if isinstance(matrix, nn.Linear) else matrix.weight.shape[0]


def num_outputs(matrix: Matrix) -> int:
    """Return how many numbers a matrix makes."""
    return matrix.out_features if isinstance(matrix, nn.Linear) else matrix.weight.shape[1]


def _spread(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
