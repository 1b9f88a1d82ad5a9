"""Matrices as small signed numbers with a scale a group of inputs: what runtimes of packed folders multiply with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import Needs, WeightMethod, output_error, quantize_rows

FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = torch.finfo(FLOAT8).max  # 448


@dataclass(frozen=True)
class RoundedMatrix:
    """A matrix of N output by K input channels; value = code * scale. Codes are int8 or float8, scales a group of inputs in a row."""

    codes: Tensor
    scales: Float[Tensor, "N groups"]
    # the share of the output's energy that is lost
    output_error: float

    @property
    def group_size(self) -> int:
        """Input channels that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantized(self) -> Float[Tensor, "N K"]:
        """Return the matrix that the codes stand for."""
        return (self.codes.float().unflatten(1, (-1, self.group_size)) * self.scales[..., None]).flatten(1)

    def rows(self, start: int, end: int) -> RoundedMatrix:
        """Return some of the output channels."""
        return RoundedMatrix(self.codes[start:end].contiguous(), self.scales[start:end].contiguous(), self.output_error)


class Rounding(Protocol):
    """Rounds one matrix. `needs`: what it wants of the inputs, as `WeightMethod` says it."""

    @property
    def needs(self) -> Needs: ...

    def __call__(self, weight: Float[Tensor, "N K"], inputs: Tensor | None) -> RoundedMatrix:
        """Return the rounded matrix."""
        ...


@dataclass(frozen=True, kw_only=True)
class IntegerRounding:
    """Integers of a symmetric grid, chosen by a method. `group_size` None: a scale a row."""

    method: WeightMethod
    grid: Grid
    group_size: int | None = None

    @property
    def needs(self) -> Needs:
        return self.method.needs

    def __call__(self, weight: Tensor, inputs: Tensor | None) -> RoundedMatrix:
        assert self.grid.is_symmetric, "codes have a sign and no zero point"
        whole, error = quantize_rows(self.method, weight, inputs, self.grid, self.group_size or weight.shape[1])
        _refuse_scales(whole.scales, self.grid.scale_dtype)
        codes = (whole.codes.to(torch.int16) - 2 ** (self.grid.bits - 1)).to(torch.int8)
        return RoundedMatrix(codes, whole.scales, error)


@dataclass(frozen=True, kw_only=True)
class Float8Rounding:
    """The nearest float8 (e4m3) with a scale a row. It is divided by before the cast, which turns all above 448 into 448 without a word."""

    scale_dtype: torch.dtype = torch.float32
    needs: Needs = "nothing"

    def __call__(self, weight: Tensor, inputs: Tensor | None) -> RoundedMatrix:
        scales = (weight.abs().amax(1, keepdim=True) / LARGEST_FLOAT8).to(self.scale_dtype).float()
        _refuse_scales(scales, self.scale_dtype)
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        codes = (weight / scales).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(FLOAT8)
        return RoundedMatrix(codes, scales, output_error(weight, codes.float() * scales, inputs))


def round_tokens(states: Float[Tensor, "B T K"], *, is_float8: bool) -> Float[Tensor, "B T K"]:
    """Return inputs of a product rounded to 8 bits, each token on a scale of its own. So do readers of packed folders."""
    low, high = states.aminmax(dim=-1, keepdim=True)
    largest = torch.maximum(low.clamp(max=0).abs(), high.clamp(min=0))
    scale = largest / (LARGEST_FLOAT8 if is_float8 else 127.5)
    scale = torch.where(scale == 0, torch.full_like(scale, torch.finfo(scale.dtype).eps), scale)
    if is_float8:
        return (states / scale).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(FLOAT8).to(states.dtype) * scale
    return (states / scale).clamp(-128, 127).round() * scale


@contextmanager
def rounded_inputs(linears: Iterable[nn.Module], *, is_float8: bool) -> Iterator[None]:
    """Let products read their inputs rounded token by token inside the block."""
    hooks = [linear.register_forward_pre_hook(partial(_round_first, is_float8=is_float8)) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _round_first(module: nn.Module, args: tuple[Tensor, ...], *, is_float8: bool) -> tuple[Tensor, ...]:
    return (round_tokens(args[0], is_float8=is_float8), *args[1:])


def _refuse_scales(scales: Tensor, dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(scales).all()):
        raise ValueError(
            f"a matrix has numbers whose scale is not finite in {str(dtype).removeprefix('torch.')}; accepted: finite weights, "
            "and bfloat16 or float32 for large ones"
        )
