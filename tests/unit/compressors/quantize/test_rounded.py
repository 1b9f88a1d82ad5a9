"""Signed codes with a scale a group: what they stand for, scales rounded before codes are chosen, float8 scaled before the cast."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.compressors.quantize.rounded import FLOAT8, Float8Rounding, IntegerRounding, round_tokens, rounded_inputs


def matrix(num_outputs: int = 24, num_inputs: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(seed))


def rounding(
    bits: int, group_size: int | None, dtype: torch.dtype = torch.float32, *, is_mirrored: bool = False
) -> IntegerRounding:
    grid = Grid(bits=bits, is_symmetric=True, is_mirrored=is_mirrored, scale_dtype=dtype)
    return IntegerRounding(method=build(WEIGHT_METHODS, "nearest"), grid=grid, group_size=group_size)


@pytest.mark.parametrize(("bits", "group_size", "bound"), [(4, 16, 0.05), (8, None, 1e-4)])
def test_codes_times_scales_are_the_matrix_to_half_a_step(bits: int, group_size: int | None, bound: float) -> None:
    weight = matrix()
    whole = rounding(bits, group_size)(weight, None)
    assert whole.codes.dtype == torch.int8 and whole.scales.shape == (24, 64 // (group_size or 64))
    assert int(whole.codes.min()) >= -(2 ** (bits - 1)) and int(whole.codes.max()) <= 2 ** (bits - 1) - 1
    steps = whole.scales.abs().repeat_interleave(group_size or 64, dim=1)
    # the end opposite the largest magnitude may be cut off by up to another half
    assert ((whole.dequantized() - weight).abs() <= 1.001 * steps).all()
    assert 0 < whole.output_error < bound
    part = whole.rows(3, 7)
    assert torch.equal(part.dequantized(), whole.dequantized()[3:7])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_are_chosen_for_the_scale_that_is_stored(dtype: torch.dtype) -> None:
    weight = matrix()
    whole = rounding(8, None, dtype, is_mirrored=True)(weight, None)
    assert torch.equal(whole.scales.to(dtype).float(), whole.scales), "nothing is lost when they are written"
    nearest = (weight / whole.scales).round().clamp(-127, 127)
    assert torch.equal(whole.codes.float(), nearest)
    blind = rounding(8, None, is_mirrored=True)(weight, None)
    written = blind.codes.float() * blind.scales.to(dtype).float()
    assert float((whole.dequantized() - weight).square().sum()) < float((written - weight).square().sum())


def test_mirrored_codes_leave_the_one_without_a_mirror_image_and_scales_are_positive() -> None:
    weight = matrix()
    weight[:, 0] = 9.0
    signed, mirrored = rounding(8, None)(weight, None), rounding(8, None, is_mirrored=True)(weight, None)
    assert int(signed.codes.min()) == -128 and float(signed.scales.max()) < 0
    assert int(mirrored.codes.min()) >= -127 and float(mirrored.scales.min()) > 0
    assert (mirrored.codes[:, 0] == 127).all()


def test_a_row_of_zeros_stays_zero() -> None:
    weight = matrix()
    weight[2] = 0.0
    for whole in (rounding(4, 16)(weight, None), Float8Rounding()(weight, None)):
        assert not whole.dequantized()[2].any() and torch.isfinite(whole.dequantized()).all()


def test_float8_is_scaled_before_the_cast() -> None:
    """The cast itself turns 10,000 into 448 without a word."""
    weight = 10_000.0 * matrix()
    assert float(weight.abs().max()) > 10_000 and float(weight.to(FLOAT8).float().abs().max()) == 448.0
    whole = Float8Rounding(scale_dtype=torch.bfloat16)(weight, None)
    assert whole.codes.dtype == FLOAT8 and whole.output_error < 2e-3
    # three bits behind the point: off by a sixteenth at most, where the number is no denormal
    is_normal = (weight / whole.scales).abs() > 2**-5
    off = ((whole.dequantized() - weight) / weight).abs()[is_normal]
    assert float(off.max()) <= 2**-4 + 1e-6


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_a_scale_that_is_not_finite_is_refused(value: float) -> None:
    weight = matrix()
    weight[0, 0] = value
    roundings = [rounding(4, 16, torch.float16), Float8Rounding(scale_dtype=torch.float16)]
    for each in roundings:
        with pytest.raises(ValueError, match="scale is not finite in float16; accepted: finite weights, and bfloat16"):
            each(weight, None)


def test_each_token_is_rounded_on_its_own_scale() -> None:
    states = matrix(6, 32).reshape(2, 3, 32)
    louder = states.clone()
    louder[1, 2] *= 1000.0
    for is_float8, step in ((False, 1 / 127.5), (True, 2**-3)):
        rounded = round_tokens(louder, is_float8=is_float8)
        assert torch.equal(rounded[0], round_tokens(states, is_float8=is_float8)[0]), "a loud token leaves others alone"
        largest = louder.abs().amax(-1, keepdim=True)
        assert ((rounded - louder).abs() <= 0.51 * step * largest + 1e-6).all()
        assert not torch.equal(rounded, louder)
    assert not round_tokens(torch.zeros(1, 2, 8), is_float8=False).any()


def test_inputs_are_rounded_inside_the_block_alone() -> None:
    linear, states = torch.nn.Linear(32, 4, bias=False), matrix(6, 32).reshape(2, 3, 32)
    plain = linear(states)
    with rounded_inputs([linear], is_float8=False):
        inside = linear(states)
    assert torch.equal(inside, linear(round_tokens(states, is_float8=False)))
    assert torch.equal(linear(states), plain) and not torch.equal(inside, plain)
