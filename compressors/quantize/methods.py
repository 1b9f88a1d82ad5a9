"""How the integers of a matrix are chosen. Each method takes the matrix and, where it wants them, the second moments of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.quantize.blocks import BlockWeights, Grid
from attar.compressors.quantize.descent import COLUMNS_AT_ONCE, fitted_scales, swept_codes

# Shares of a block's range that a search tries: what is cut off at the ends makes the steps between finer.
SHRINKS = tuple(1.0 - 0.025 * step for step in range(17))


Needs = Literal["nothing", "powers", "moments"]


class WeightMethod(Protocol):
    """Quantizes one matrix. `needs`: what it wants of the inputs x: nothing, their powers E[x^2], or their moments E[x x^T]."""

    needs: ClassVar[Needs]

    def __call__(
        self, weight: Float[Tensor, "N K"], inputs: Tensor | None, grid: Grid, block_size: int
    ) -> BlockWeights:
        """Return the integers."""
        ...


@dataclass(frozen=True, kw_only=True)
class RoundToNearest:
    """Cover each block's range and round. Right for 8 bits; for 4 the baseline."""

    needs: ClassVar[Needs] = "nothing"

    def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        blocks = weight.unflatten(1, (-1, block_size))
        scale, zero = grid.fit(blocks)
        return grid.weights(grid.codes(blocks, scale[..., None], zero[..., None]).flatten(1), scale, zero)


@dataclass(frozen=True, kw_only=True)
class SearchedRange:
    """Round on the range of each block that loses least: min over shrinks of sum_k E[x_k^2] (w_k - q_k)^2. One thread, no solve."""

    needs: ClassVar[Needs] = "powers"

    def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        importance = torch.ones(weight.shape[1]) if inputs is None else powers_of(inputs)
        blocks = weight.unflatten(1, (-1, block_size))
        scale, zero = best_range(blocks, importance.view(-1, block_size), grid)
        return grid.weights(grid.codes(blocks, scale[..., None], zero[..., None]).flatten(1), scale, zero)


@dataclass(frozen=True, kw_only=True)
class ErrorCorrected:
    """GPTQ: round channel after channel and let the later ones make up for each error, by the inputs' second moments.

    https://arxiv.org/abs/2210.17323, with the range of each block searched when its turn comes.
    """

    damping: float = 0.01  # added to the diagonal, as a share of its mean
    needs: ClassVar[Needs] = "moments"

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"damping is {self.damping}; accepted: above 0")

    def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        assert inputs is not None and inputs.ndim == 2, "needs moments"
        factor = _inverse_factor(inputs, self.damping)
        importance = inputs.diagonal().reshape(-1, block_size)
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


@dataclass(frozen=True, kw_only=True)
class OrderedCorrected:
    """GPTQ with the channels of the largest inputs first, whose errors then have all others to make up for them.

    Each block's range is searched before, so that a block stays a block whatever the order (`actorder: static` of other tools).
    https://arxiv.org/abs/2210.17323
    """

    damping: float = 0.01  # added to the diagonal, as a share of its mean
    needs: ClassVar[Needs] = "moments"

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"damping is {self.damping}; accepted: above 0")

    def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        assert inputs is not None and inputs.ndim == 2, "needs moments"
        powers = inputs.diagonal()
        scale, zero = best_range(weight.unflatten(1, (-1, block_size)), powers.reshape(-1, block_size), grid)
        order = powers.argsort(descending=True, stable=True)
        factor = _inverse_factor(inputs[order][:, order], self.damping)
        left, blocks = weight[:, order], order // block_size
        codes = torch.empty_like(left)
        for start in range(0, weight.shape[1], COLUMNS_AT_ONCE):
            end = min(start + COLUMNS_AT_ONCE, weight.shape[1])
            part, corner = left[:, start:end], factor[start:end, start:end]
            errors = torch.empty_like(part)
            for column in range(end - start):
                steps, middle = scale[:, blocks[start + column]], zero[:, blocks[start + column]]
                values = part[:, column]
                chosen = grid.codes(values, steps, middle)
                codes[:, order[start + column]] = chosen
                errors[:, column] = (values - (chosen - middle) * steps) / corner[column, column]
                part[:, column:] -= errors[:, column, None] * corner[column, column:]
            left[:, end:] -= errors @ factor[start:end, end:]
        return grid.weights(codes, scale, zero)


@dataclass(frozen=True, kw_only=True)
class Refined:
    """GPTQ, the largest inputs first. Then, in turns, the best scales for its codes and the best code of each channel.

    https://arxiv.org/abs/2309.01885 for the second part.
    """

    damping: float = 0.01  # added to the diagonal, as a share of its mean
    num_sweeps: int = 2  # turns over all channels
    needs: ClassVar[Needs] = "moments"

    def __post_init__(self) -> None:
        OrderedCorrected(damping=self.damping)
        if self.num_sweeps < 1:
            raise ValueError(f"num_sweeps is {self.num_sweeps}; accepted: at least 1")

    def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> BlockWeights:
        assert inputs is not None and inputs.ndim == 2, "needs moments"
        first = OrderedCorrected(damping=self.damping)(weight, inputs, grid, block_size)
        codes, scale = first.codes.float(), first.scales
        zero = (
            torch.full_like(scale, 2.0 ** (grid.bits - 1)) if first.zero_points is None else first.zero_points.float()
        )
        moments = _damped(inputs.double(), self.damping).float()
        for _ in range(self.num_sweeps):
            scale = fitted_scales(weight, codes, scale, zero, moments, grid)
            codes = swept_codes(weight, codes, scale, zero, moments, grid)
        return grid.weights(codes, scale, zero)


# A matrix is quantized so many rows at a time: rows do not know of each other, and the search holds several copies.
ROWS_AT_ONCE = 4096


def quantize_rows(
    method: WeightMethod, weight: Float[Tensor, "N K"], inputs: Tensor | None, grid: Grid, block_size: int
) -> tuple[BlockWeights, float]:
    """Return the integers of a matrix, worked out some rows at a time, and its `output_error`."""
    parts, lost, total = [], 0.0, 0.0
    for rows in weight.split(ROWS_AT_ONCE):
        part = method(rows, inputs, grid, block_size)
        energy = float(rows.square().sum()) or 1e-30
        lost, total = lost + energy * output_error(rows, part.dequantized(), inputs), total + energy
        parts.append(part)
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    whole = BlockWeights(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
        grid.bits,
    )
    return whole, lost / total


WEIGHT_METHODS: dict[str, type[WeightMethod]] = {
    "nearest": RoundToNearest,
    "searched": SearchedRange,
    "error_corrected": ErrorCorrected,
    "ordered": OrderedCorrected,
    "refined": Refined,
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


def powers_of(inputs: Tensor) -> Float[Tensor, "K"]:
    """Return E[x^2] of powers or moments."""
    return inputs if inputs.ndim == 1 else inputs.diagonal()


def output_error(weight: Float[Tensor, "N K"], rounded: Float[Tensor, "N K"], inputs: Tensor | None) -> float:
    """Return E|(w - q) x|^2 / E|w x|^2, the share of the output's energy that is lost. By powers as if channels were independent."""
    if inputs is None or inputs.ndim == 1:
        power = torch.ones(weight.shape[1]) if inputs is None else inputs
        return float(((weight - rounded).square() @ power).sum() / (weight.square() @ power).sum().clamp(min=1e-30))
    lost = weight - rounded
    return float(((lost @ inputs) * lost).sum() / ((weight @ inputs) * weight).sum().clamp(min=1e-30))


def _inverse_factor(moments: Float[Tensor, "K K"], damping: float) -> Float[Tensor, "K K"]:
    """Return U with U^T U = (H + damping)^-1, upper triangular; in float64, since a massive channel squares the condition."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(moments.double(), damping)))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _damped(moments: Float[Tensor, "K K"], damping: float) -> Float[Tensor, "K K"]:
    """Return moments with a share of their mean power added to each channel's; to a silent channel's all of it."""
    diagonal = moments.diagonal()
    mean = float(diagonal.mean()) or 1.0
    return moments + torch.diag(damping * mean + (diagonal == 0) * mean)
