"""How the integers of a matrix are chosen. Each method takes the matrix and, where it wants them, the second moments of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from compressors.quantize.blocks import BlockWeights, Grid

# Shares of a block's range that a search tries: what is cut off at the ends makes the steps between finer.
SHRINKS = tuple(1.0 - 0.025 * step for step in range(17))


class WeightMethod(Protocol):
    """Quantizes one matrix. `needs_inputs`: whether it wants E[x x^T] of what the matrix is multiplied with."""

    needs_inputs: ClassVar[bool]

    def __call__(
        self, weight: Float[Tensor, "N K"], moments: Float[Tensor, "K K"] | None, grid: Grid, block_size: int
    ) -> BlockWeights:
        """Return the integers."""
        ...


@dataclass(frozen=True, kw_only=True)
class RoundToNearest:
    """Cover each block's range and round. Right for 8 bits; for 4 the baseline."""

    needs_inputs: ClassVar[bool] = False

    def __call__(self, weight: Tensor, moments: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        blocks = weight.unflatten(1, (-1, block_size))
        scale, zero = grid.fit(blocks)
        return grid.weights(grid.codes(blocks, scale[..., None], zero[..., None]).flatten(1), scale, zero)


@dataclass(frozen=True, kw_only=True)
class SearchedRange:
    """Round on the range of each block that loses least: min over shrinks of sum_k E[x_k^2] (w_k - q_k)^2. One thread, no solve."""

    needs_inputs: ClassVar[bool] = True

    def __call__(self, weight: Tensor, moments: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        importance = torch.ones(weight.shape[1]) if moments is None else moments.diagonal()
        blocks = weight.unflatten(1, (-1, block_size))
        scale, zero = best_range(blocks, importance.view(-1, block_size), grid)
        return grid.weights(grid.codes(blocks, scale[..., None], zero[..., None]).flatten(1), scale, zero)


@dataclass(frozen=True, kw_only=True)
class ErrorCorrected:
    """GPTQ: round channel after channel and let the later ones make up for each error, by the inputs' second moments.

    https://arxiv.org/abs/2210.17323, with the range of each block searched when its turn comes.
    """

    damping: float = 0.01  # added to the diagonal, as a share of its mean
    needs_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"damping is {self.damping}; accepted: above 0")

    def __call__(self, weight: Tensor, moments: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        assert moments is not None, "needs_inputs"
        factor = _inverse_factor(moments, self.damping)
        importance = moments.diagonal().view(-1, block_size)
        left = weight.clone()
        codes, scales, zeros = torch.empty_like(left), [], []
        for index, start in enumerate(range(0, weight.shape[1], block_size)):
            end = start + block_size
            block, corner = left[:, start:end], factor[start:end, start:end]
            scale, zero = (part[:, 0] for part in best_range(block[:, None], importance[index : index + 1], grid))
            errors = torch.empty_like(block)
            for column in range(block_size):
                values = block[:, column]
                chosen = grid.codes(values, scale, zero)
                codes[:, start + column] = chosen
                errors[:, column] = (values - (chosen - zero) * scale) / corner[column, column]
                block[:, column:] -= errors[:, column, None] * corner[column, column:]
            left[:, end:] -= errors @ factor[start:end, end:]
            scales.append(scale)
            zeros.append(zero)
        return grid.weights(codes, torch.stack(scales, 1), torch.stack(zeros, 1))


WEIGHT_METHODS: dict[str, type[WeightMethod]] = {
    "nearest": RoundToNearest,
    "searched": SearchedRange,
    "error_corrected": ErrorCorrected,
}


def best_range(
    blocks: Float[Tensor, "N blocks size"], importance: Float[Tensor, "blocks size"], grid: Grid
) -> tuple[Float[Tensor, "N blocks"], Float[Tensor, "N blocks"]]:
    """Return (scale, zero point) of the shrink with the least weighted squared error, block by block."""
    best_scale, best_zero = grid.fit(blocks)
    least = torch.full_like(best_scale, torch.inf)
    for shrink in SHRINKS:
        scale, zero = grid.fit(blocks, shrink)
        rounded = (grid.codes(blocks, scale[..., None], zero[..., None]) - zero[..., None]) * scale[..., None]
        error = ((rounded - blocks).square() * importance).sum(-1)
        is_better = error < least
        least = torch.where(is_better, error, least)
        best_scale, best_zero = torch.where(is_better, scale, best_scale), torch.where(is_better, zero, best_zero)
    return best_scale, best_zero


def output_error(weight: Float[Tensor, "N K"], rounded: Float[Tensor, "N K"], moments: Tensor | None) -> float:
    """Return E|x (w - q)|^2 / E|x w|^2, the share of the output's energy that is lost; without moments that of the weights'."""
    lost = weight - rounded
    if moments is None:
        return float(lost.square().sum() / weight.square().sum().clamp(min=1e-30))
    return float(((lost @ moments) * lost).sum() / ((weight @ moments) * weight).sum().clamp(min=1e-30))


def _inverse_factor(moments: Float[Tensor, "K K"], damping: float) -> Float[Tensor, "K K"]:
    """Return U with U^T U = (H + damping)^-1, upper triangular; in float64, since a massive channel squares the condition."""
    hessian = moments.double()
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    hessian = hessian + torch.diag(damping * mean + (diagonal == 0) * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True).float()
