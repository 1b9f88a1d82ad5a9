"""Weights as small integers in blocks along the input channels. A scale a block, and where it is not symmetric a zero point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# onnxruntime's kernels take blocks of these sizes
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class BlockWeights:
    """Codes of a matrix, N output by K input channels; value = (code - zero point) * scale. Zero points None: 2^(bits-1) everywhere."""

    codes: UInt8[Tensor, "N K"]
    scales: Float[Tensor, "N blocks"]
    zero_points: UInt8[Tensor, "N blocks"] | None
    bits: int

    @property
    def block_size(self) -> int:
        """Input channels that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantized(self) -> Float[Tensor, "N K"]:
        """Return the matrix that the codes stand for."""
        codes = self.codes.unflatten(1, (-1, self.block_size)).float()
        zeros = 2.0 ** (self.bits - 1) if self.zero_points is None else self.zero_points[..., None].float()
        return ((codes - zeros) * self.scales[..., None]).flatten(1)

    def packed_codes(self) -> UInt8[Tensor, "N blocks bytes"]:
        """Return the codes as bytes, two of 4 bits in each, the earlier channel in the lower half."""
        return _packed(self.codes, self.bits).unflatten(1, (self.scales.shape[1], -1))

    def packed_zero_points(self) -> UInt8[Tensor, "N bytes"] | None:
        """Return the zero points as bytes, each row filled up to whole ones."""
        if self.zero_points is None:
            return None
        zeros = self.zero_points
        if self.bits == 4 and zeros.shape[1] % 2:
            zeros = torch.cat([zeros, torch.zeros_like(zeros[:, :1])], dim=1)
        return _packed(zeros, self.bits)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The integers of a block. How many bits, and whether zero lies in their middle or where the block's values want it."""

    bits: int
    is_symmetric: bool
    # symmetric, and without the one code that has no mirror image: for products of integers with integers
    is_mirrored: bool = False
    # what scales are stored in: they are rounded to it before codes are chosen
    scale_dtype: torch.dtype = torch.float32

    def fit(
        self, blocks: Float[Tensor, "N blocks size"], shrink: float = 1.0
    ) -> tuple[Float[Tensor, "N blocks"], Float[Tensor, "N blocks"]]:
        """Return (scale, zero point) of each block so that its range, times `shrink` in (0, 1], is covered."""
        half = 2.0 ** (self.bits - 1)
        if self.is_symmetric:
            # the largest magnitude becomes -half, the one code without a mirror image
            largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1) * shrink
            scale = self.stored(largest.abs() / (half - 1) if self.is_mirrored else largest / -half)
            return scale, torch.full_like(scale, half)
        low, high = blocks.amin(-1).clamp(max=0) * shrink, blocks.amax(-1).clamp(min=0) * shrink
        scale = self.stored((high - low) / (2.0**self.bits - 1))
        return scale, (-low / scale).round().clamp(0, 2**self.bits - 1)

    def stored(self, scale: Tensor) -> Tensor:
        """Return scales as they will be read back. A block of zeros has 1."""
        scale = scale.to(self.scale_dtype).float()
        return torch.where(scale == 0, torch.ones_like(scale), scale)

    def codes(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the nearest codes, as floats; shapes broadcast."""
        return (values / scale + zero).round().clamp(int(self.is_mirrored), 2**self.bits - 1)

    def weights(self, codes: Tensor, scale: Tensor, zero: Tensor) -> BlockWeights:
        """Return codes of N by K and their scales as `BlockWeights`."""
        zeros = None if self.is_symmetric else zero.to(torch.uint8).contiguous()
        return BlockWeights(codes.to(torch.uint8).contiguous(), scale.float().contiguous(), zeros, self.bits)


def block_size_for(num_channels: int, wanted: int) -> int:
    """Return the largest block size up to `wanted` that divides the channels. Raises ValueError when none does."""
    fitting = [size for size in BLOCK_SIZES if size <= wanted and num_channels % size == 0]
    if not fitting:
        raise ValueError(f"{num_channels} channels are not whole blocks of {BLOCK_SIZES[0]} to {wanted}")
    return fitting[-1]


def _packed(codes: UInt8[Tensor, "N K"], bits: int) -> UInt8[Tensor, "N bytes"]:
    return codes if bits == 8 else codes[:, 0::2] | (codes[:, 1::2] << 4)
