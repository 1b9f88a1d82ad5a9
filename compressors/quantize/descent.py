"""Lower what a rounded matrix loses, once its codes are chosen. Scales by least squares, codes one channel after the other, in turns."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.quantize.blocks import Grid

# Changes of so many channels are carried to the later ones by one product.
COLUMNS_AT_ONCE = 128
# Added to the diagonal of the scales' equations, as a share of its mean.
RIDGE = 1e-6


def fitted_scales(
    weight: Float[Tensor, "N K"],
    codes: Float[Tensor, "N K"],
    scale: Float[Tensor, "N blocks"],
    zero: Float[Tensor, "N blocks"],
    moments: Float[Tensor, "K K"],
    grid: Grid,
) -> Float[Tensor, "N blocks"]:
    """Return the scales with which fixed codes lose least, E|(w - q) x|^2, as they are stored. A row that would lose more keeps its own.

    With u = code - zero point, the scales of a row solve G s = r, where G_ab sums u_i H_ij u_j over blocks a and b, and r_a u_i (H w)_i.
    """
    num_blocks = scale.shape[1]
    size = codes.shape[1] // num_blocks
    units = codes - zero.repeat_interleave(size, dim=1)
    right = (units * (weight @ moments)).unflatten(1, (num_blocks, size)).sum(-1).double()
    rows = []
    for start in range(0, codes.shape[1], size):
        reached = units[:, start : start + size] @ moments[start : start + size]
        rows.append((units * reached).unflatten(1, (num_blocks, size)).sum(-1))
    gram = torch.stack(rows, dim=1).double()
    diagonal = gram.diagonal(dim1=1, dim2=2)
    is_empty = diagonal <= 0  # all codes of a block stand for zero
    damping = RIDGE * diagonal.mean(dim=1, keepdim=True).clamp(min=1e-30) + is_empty
    solved = torch.linalg.solve(gram + torch.diag_embed(damping), right).float()
    stored = grid.stored(torch.where(is_empty, scale, solved))
    is_better = _lost(stored, gram, right) < _lost(scale, gram, right)
    is_better &= torch.isfinite(stored).all(dim=1)
    if grid.is_mirrored:
        is_better &= (stored > 0).all(dim=1)
    return torch.where(is_better[:, None], stored, scale)


def swept_codes(
    weight: Float[Tensor, "N K"],
    codes: Float[Tensor, "N K"],
    scale: Float[Tensor, "N blocks"],
    zero: Float[Tensor, "N blocks"],
    moments: Float[Tensor, "K K"],
    grid: Grid,
) -> Float[Tensor, "N K"]:
    """Return the codes after each channel in turn took the code that loses least with all others as they are.

    No step can raise E|(w - q) x|^2. https://arxiv.org/abs/2309.01885
    """
    size = codes.shape[1] // scale.shape[1]
    steps, middle = (part.repeat_interleave(size, dim=1) for part in (scale, zero))
    values, codes = (codes - middle) * steps, codes.clone()
    gradient, powers = (weight - values) @ moments, moments.diagonal()
    for start in range(0, codes.shape[1], COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, codes.shape[1])
        part, corner = gradient[:, start:end], moments[start:end, start:end]
        changes = torch.empty_like(part)
        for column in range(end - start):
            index = start + column
            best = values[:, index] + part[:, column] / powers[index]
            codes[:, index] = grid.codes(best, steps[:, index], middle[:, index])
            changes[:, column] = (codes[:, index] - middle[:, index]) * steps[:, index] - values[:, index]
            part[:, column:] -= changes[:, column, None] * corner[column, column:]
        gradient[:, end:] -= changes @ moments[start:end, end:]
    return codes


def _lost(scale: Float[Tensor, "N blocks"], gram: Tensor, right: Tensor) -> Float[Tensor, "N"]:
    """Return what rows lose with these scales, up to what no scale changes."""
    exact = scale.double()
    return ((gram @ exact[..., None]).squeeze(-1) * exact).sum(-1) - 2 * (right * exact).sum(-1)
