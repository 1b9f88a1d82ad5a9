"""What a stored matrix stands for in each low-bit format. The very numbers: training can run on them before they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.quantize.blocks import Grid, block_size_for
from attar.compressors.quantize.methods import RoundToNearest

# Channels that share a scale in every ggml type of plain blocks.
GGML_BLOCK = 32
SIZES = (16, 32, 64, 128)


class Rounding(Protocol):
    """A format's grid of numbers. `runtime`: what multiplies by it as it is stored."""

    runtime: ClassVar[str]

    def __call__(self, weight: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Return the numbers that stand for the weights. Raises ValueError for a width of no whole blocks."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockIntegers:
    """Integers in blocks along the input channels, rounded to the nearest: what stage `quantize` stores with method `nearest`."""

    bits: int = 4
    block_size: int = 32
    symmetric: bool = False
    runtime: ClassVar[str] = "onnxruntime"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits is {self.bits}; accepted: 4 or 8")
        if self.block_size not in SIZES:
            raise ValueError(f"block_size is {self.block_size}; accepted: {', '.join(map(str, SIZES))}")

    def __call__(self, weight: Tensor) -> Tensor:
        grid = Grid(bits=self.bits, is_symmetric=self.symmetric)
        size = block_size_for(weight.shape[1], self.block_size)
        return RoundToNearest()(weight.float(), None, grid, size).dequantized().to(weight.dtype)


@dataclass(frozen=True, kw_only=True)
class GgmlQ4:
    """ggml's Q4_0: 4 bits in blocks of 32 around 8, the scale stored in float16."""

    runtime: ClassVar[str] = "llama.cpp"

    def __call__(self, weight: Tensor) -> Tensor:
        blocks = _ggml_blocks(weight)
        scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8
        # by the inverse, and cut off behind half a step, as the format's reference does
        codes = (blocks * _inverse(scale) + 8.5).trunc().clamp(0, 15)
        return _stored(codes - 8, scale, weight)


@dataclass(frozen=True, kw_only=True)
class GgmlQ8:
    """ggml's Q8_0: 8 bits in blocks of 32, symmetric, the scale stored in float16."""

    runtime: ClassVar[str] = "llama.cpp"

    def __call__(self, weight: Tensor) -> Tensor:
        blocks = _ggml_blocks(weight)
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        scaled = blocks * _inverse(scale)
        return _stored(scaled.sign() * (scaled.abs() + 0.5).floor(), scale, weight)


ROUNDINGS: dict[str, type[Rounding]] = {"blocks": BlockIntegers, "q4_0": GgmlQ4, "q8_0": GgmlQ8}


def _ggml_blocks(weight: Tensor) -> Float[Tensor, "N blocks 32"]:
    if weight.shape[1] % GGML_BLOCK:
        raise ValueError(f"{weight.shape[1]} channels are not whole blocks of {GGML_BLOCK}")
    return weight.float().unflatten(1, (-1, GGML_BLOCK))


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def _stored(codes: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return (codes * scale.half().float()).flatten(1).to(weight.dtype)
