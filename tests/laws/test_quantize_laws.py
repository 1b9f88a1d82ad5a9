"""Quantizers against their definitions: what the grid can say exactly, which range is the best, and GPTQ as a textbook has it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import (
    SHRINKS,
    ErrorCorrected,
    OrderedCorrected,
    RoundToNearest,
    SearchedRange,
    best_range,
)

BLOCK = 8


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_magnitude_takes_the_one_code_without_a_mirror_image(bits: int) -> None:
    blocks = tensor(6, 3, BLOCK, seed=0)
    scale, zero = Grid(bits=bits, is_symmetric=True).fit(blocks)
    half = 2 ** (bits - 1)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    codes = Grid(bits=bits, is_symmetric=True).codes(blocks, scale[..., None], zero[..., None])
    assert (codes.amin(-1) == 0).all(), "and so all 2^bits codes serve"
    torch.testing.assert_close(-half * scale[..., None], largest)
    assert (zero == half).all() and codes.max() <= 2 * half - 1
    # a symmetric grid of one code less has a step of 1 / (half - 1)
    torch.testing.assert_close(scale.abs(), largest.abs().squeeze(-1) / half)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_block_of_one_sign_holds_zero_and_clips_nothing(sign: float, bits: int) -> None:
    weight = sign * (5.0 + tensor(4, 2 * BLOCK, seed=1).abs())
    grid = Grid(bits=bits, is_symmetric=False)
    made = RoundToNearest()(weight, None, grid, BLOCK)
    steps = made.scales.repeat_interleave(BLOCK, dim=1)
    assert ((made.dequantized() - weight).abs() <= 0.501 * steps).all()
    scale, zero = grid.fit(weight.unflatten(1, (-1, BLOCK)))
    assert (zero == (0 if sign > 0 else 2**bits - 1)).all(), "the code of zero is at the end"
    torch.testing.assert_close(scale * (2**bits - 1), weight.unflatten(1, (-1, BLOCK)).abs().amax(-1))


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_zero_is_said_exactly(is_symmetric: bool) -> None:
    weight = tensor(4, 2 * BLOCK, seed=2)
    weight[:, ::3] = 0.0
    made = RoundToNearest()(weight, None, Grid(bits=4, is_symmetric=is_symmetric), BLOCK)
    assert (made.dequantized()[:, ::3] == 0).all()


def test_packed_codes_are_two_a_byte_the_earlier_channel_below() -> None:
    made = RoundToNearest()(tensor(3, 6 * BLOCK, seed=3), None, Grid(bits=4, is_symmetric=False), 2 * BLOCK)
    packed = made.packed_codes()
    assert packed.shape == (3, 3, BLOCK)
    unpacked = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
    assert torch.equal(unpacked, made.codes)
    zeros = made.packed_zero_points()
    assert zeros is not None and zeros.shape == (3, 2) and made.zero_points is not None
    assert torch.equal(torch.stack([zeros & 15, zeros >> 4], dim=-1).flatten(1)[:, :3], made.zero_points)
    assert (zeros[:, 1] >> 4 == 0).all(), "an odd row is filled up"


def test_codes_of_eight_bits_are_their_own_bytes() -> None:
    made = RoundToNearest()(tensor(3, 3 * BLOCK, seed=3), None, Grid(bits=8, is_symmetric=False), BLOCK)
    packed, zeros = made.packed_codes(), made.packed_zero_points()
    assert packed.shape == (3, 3, BLOCK) and torch.equal(packed.flatten(1), made.codes) and int(packed.max()) > 15
    assert zeros is not None and made.zero_points is not None
    assert zeros.shape == (3, 3) and torch.equal(zeros, made.zero_points), "an odd row of bytes is whole"


def test_an_even_row_of_four_bit_zero_points_is_not_filled_up() -> None:
    made = RoundToNearest()(tensor(3, 4 * BLOCK, seed=3), None, Grid(bits=4, is_symmetric=False), BLOCK)
    zeros = made.packed_zero_points()
    assert zeros is not None and made.zero_points is not None and zeros.shape == (3, 2)
    assert torch.equal(torch.stack([zeros & 15, zeros >> 4], dim=-1).flatten(1), made.zero_points)
    symmetric = RoundToNearest()(tensor(3, 4 * BLOCK, seed=3), None, Grid(bits=4, is_symmetric=True), BLOCK)
    assert symmetric.packed_zero_points() is None


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_the_searched_range_is_the_best_of_all_that_are_tried_under_the_inputs_powers(is_symmetric: bool) -> None:
    blocks, grid = tensor(10, 2, BLOCK, seed=4), Grid(bits=4, is_symmetric=is_symmetric)
    importance = torch.logspace(-3, 3, BLOCK).repeat(2, 1)

    def error(scale: torch.Tensor, zero: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        codes = grid.codes(blocks, scale[..., None], zero[..., None])
        return (((codes - zero[..., None]) * scale[..., None] - blocks).square() * weights).sum(-1)

    tried = torch.stack([error(*grid.fit(blocks, shrink), importance) for shrink in SHRINKS])
    best = error(*best_range(blocks, importance, grid), importance)
    torch.testing.assert_close(best, tried.amin(0))
    alike = error(*best_range(blocks, torch.ones_like(importance), grid), importance)
    assert float(alike.sum()) > 1.05 * float(best.sum()), "powers that go over six decades choose otherwise"


def test_error_correction_of_independent_inputs_is_the_searched_range() -> None:
    """Moments without products between channels leave nothing to make up for: what stays is the range under the inputs' powers."""
    weight, powers = tensor(12, 4 * BLOCK, seed=5), torch.logspace(-2, 2, 4 * BLOCK)
    grid = Grid(bits=4, is_symmetric=False)
    corrected = ErrorCorrected()(weight, torch.diag(powers), grid, BLOCK)
    searched = SearchedRange()(weight, powers, grid, BLOCK)
    assert torch.equal(corrected.codes, searched.codes) and torch.equal(corrected.scales, searched.scales)
    alike = SearchedRange()(weight, None, grid, BLOCK)
    assert not torch.equal(alike.scales, searched.scales)


def textbook(weight: torch.Tensor, moments: torch.Tensor, grid: Grid, damping: float) -> torch.Tensor:
    """Optimal brain quantization in a fixed order: each column's error goes to all later ones by the inverse Hessian of what is left."""
    left, codes = weight.double().clone(), torch.empty_like(weight)
    hessian = moments.double() + damping * moments.double().diagonal().mean() * torch.eye(len(moments)).double()
    inverse = torch.linalg.inv(hessian)
    importance = moments.diagonal().reshape(-1, BLOCK)
    for column in range(weight.shape[1]):
        index, offset = divmod(column, BLOCK)
        if offset == 0:
            block = left[:, column : column + BLOCK].float()[:, None]
            scale, zero = (part[:, 0] for part in best_range(block, importance[index : index + 1], grid))
        values = left[:, column]
        codes[:, column] = grid.codes(values.float(), scale, zero)
        off = (values - (codes[:, column] - zero) * scale) / inverse[column, column]
        left -= off[:, None] * inverse[column]
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return codes


def test_error_correction_is_the_textbooks_across_blocks() -> None:
    mixing = tensor(4 * BLOCK, 4 * BLOCK, seed=6) + 2.0 * tensor(
        4 * BLOCK, 1, seed=7
    )  # channels of all blocks go together
    inputs = tensor(400, 4 * BLOCK, seed=8) @ mixing.T
    moments, weight = inputs.T @ inputs / 400, tensor(16, 4 * BLOCK, seed=9)
    grid = Grid(bits=4, is_symmetric=False)
    made = ErrorCorrected(damping=0.01)(weight, moments, grid, BLOCK)
    expected = textbook(weight, moments, grid, 0.01)
    # a value that lies between two codes may fall either way, and what follows it in its row with it
    assert float((made.codes == expected).double().mean()) > 0.95


def correlated_moments() -> torch.Tensor:
    mixing = tensor(4 * BLOCK, 4 * BLOCK, seed=6) + 2.0 * tensor(4 * BLOCK, 1, seed=7)
    inputs = tensor(400, 4 * BLOCK, seed=8) @ (mixing * torch.logspace(-1, 1, 4 * BLOCK)[:, None]).T
    return inputs.T @ inputs / 400


def test_ordered_correction_of_independent_inputs_is_the_searched_range() -> None:
    weight, powers = tensor(12, 4 * BLOCK, seed=5), torch.logspace(-2, 2, 4 * BLOCK)
    grid = Grid(bits=4, is_symmetric=True)
    ordered, searched = (
        OrderedCorrected()(weight, torch.diag(powers), grid, BLOCK),
        SearchedRange()(weight, powers, grid, BLOCK),
    )
    assert torch.equal(ordered.codes, searched.codes) and torch.equal(ordered.scales, searched.scales)


def test_ordered_correction_is_correction_of_channels_sorted_by_their_power() -> None:
    """With one block for all channels the order of channels is all that the two differ in."""
    weight, moments, grid = tensor(16, 4 * BLOCK, seed=9), correlated_moments(), Grid(bits=4, is_symmetric=True)
    order = moments.diagonal().argsort(descending=True)
    ordered = OrderedCorrected()(weight, moments, grid, 4 * BLOCK)
    plain = ErrorCorrected()(weight[:, order], moments[order][:, order], grid, 4 * BLOCK)
    torch.testing.assert_close(ordered.scales, plain.scales)
    assert float((ordered.codes[:, order] == plain.codes).double().mean()) > 0.95


@pytest.mark.parametrize("columns", [8, 24, 4096])
def test_the_columns_at_once_change_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moments, grid = tensor(16, 4 * BLOCK, seed=9), correlated_moments(), Grid(bits=4, is_symmetric=False)
    whole = OrderedCorrected()(weight, moments, grid, BLOCK)
    monkeypatch.setattr("attar.compressors.quantize.methods.COLUMNS_AT_ONCE", columns)
    parts = OrderedCorrected()(weight, moments, grid, BLOCK)
    assert float((parts.codes == whole.codes).double().mean()) > 0.98  # another order of adding may flip a tie


def test_scales_are_rounded_before_codes_are_chosen() -> None:
    weight = tensor(6, 2 * BLOCK, seed=11)
    for is_symmetric in (True, False):
        grid = Grid(bits=4, is_symmetric=is_symmetric, scale_dtype=torch.bfloat16)
        made = RoundToNearest()(weight, None, grid, BLOCK)
        assert torch.equal(made.scales.bfloat16().float(), made.scales)
        steps = made.scales.repeat_interleave(BLOCK, dim=1).abs()
        assert float(((made.dequantized() - weight).abs() <= 0.501 * steps).double().mean()) > 0.9


@pytest.mark.parametrize("bits", [4, 8])
def test_a_mirrored_grid_has_a_positive_step_of_one_in_half_less_one(bits: int) -> None:
    blocks, half = tensor(6, 3, BLOCK, seed=0), 2 ** (bits - 1)
    grid = Grid(bits=bits, is_symmetric=True, is_mirrored=True)
    scale, zero = grid.fit(blocks)
    torch.testing.assert_close(scale, blocks.abs().amax(-1) / (half - 1))
    codes = grid.codes(blocks, scale[..., None], zero[..., None]) - half
    assert float(codes.abs().max()) == half - 1
    mirrored = grid.codes(-blocks, scale[..., None], zero[..., None]) - half
    assert torch.equal(mirrored, -codes)
