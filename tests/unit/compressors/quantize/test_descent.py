"""Scales and codes after GPTQ: each is the best with the other fixed, and no turn loses more than the one before it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.descent import fitted_scales, swept_codes
from attar.compressors.quantize.methods import OrderedCorrected, Refined, RoundToNearest, output_error

BLOCK, NUM_BLOCKS = 8, 4
WIDTH = BLOCK * NUM_BLOCKS
GRIDS = [Grid(bits=4, is_symmetric=True), Grid(bits=4, is_symmetric=False), Grid(bits=3, is_symmetric=True)]


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments() -> torch.Tensor:
    mixing = tensor(WIDTH, WIDTH, seed=6) + 2.0 * tensor(WIDTH, 1, seed=7)
    inputs = tensor(400, WIDTH, seed=8) @ (mixing * torch.logspace(-1, 1, WIDTH)[:, None]).T
    return inputs.T @ inputs / 400 + 0.01 * torch.eye(WIDTH)


def chosen(weight: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = RoundToNearest()(weight, None, grid, BLOCK)
    zero = (
        torch.full_like(made.scales, 2.0 ** (grid.bits - 1)) if made.zero_points is None else made.zero_points.float()
    )
    return made.codes.float(), made.scales, zero


def lost(weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """E|(w - q) x|^2 of each row, by its definition."""
    parts = (codes.unflatten(1, (-1, BLOCK)) - zero[..., None]) * scale[..., None]
    off = (weight - parts.flatten(1)).double()
    return ((off @ moments().double()) * off).sum(-1)


@pytest.mark.parametrize("grid", GRIDS)
def test_fitted_scales_are_the_best_for_their_codes(grid: Grid) -> None:
    weight = tensor(12, WIDTH, seed=1)
    codes, scale, zero = chosen(weight, grid)
    fitted = fitted_scales(weight, codes, scale, zero, moments(), grid)
    best = lost(weight, codes, fitted, zero)
    assert (best < lost(weight, codes, scale, zero)).all()
    for block in range(NUM_BLOCKS):  # no scale alone can be moved without losing more
        for factor in (0.99, 1.01):
            moved = fitted.clone()
            moved[:, block] *= factor
            assert (lost(weight, codes, moved, zero) >= best - 1e-9).all()


def test_scales_are_fitted_as_they_are_stored_or_left() -> None:
    weight, grid = tensor(12, WIDTH, seed=1), Grid(bits=4, is_symmetric=True, scale_dtype=torch.bfloat16)
    codes, scale, zero = chosen(weight, grid)
    fitted = fitted_scales(weight, codes, scale, zero, moments(), grid)
    assert torch.equal(fitted.bfloat16().float(), fitted)
    assert (lost(weight, codes, fitted, zero) <= lost(weight, codes, scale, zero)).all()
    again = fitted_scales(weight, codes, fitted, zero, moments(), grid)
    assert (lost(weight, codes, again, zero) <= lost(weight, codes, fitted, zero)).all()


def test_a_block_of_zeros_keeps_its_scale() -> None:
    weight, grid = tensor(4, WIDTH, seed=1), Grid(bits=4, is_symmetric=True)
    weight[:, :BLOCK] = 0.0
    codes, scale, zero = chosen(weight, grid)
    fitted = fitted_scales(weight, codes, scale, zero, moments(), grid)
    assert torch.equal(fitted[:, 0], scale[:, 0]) and torch.isfinite(fitted).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_no_sweep_loses_more_and_in_the_end_no_code_can_be_changed_alone(grid: Grid) -> None:
    weight = tensor(12, WIDTH, seed=2)
    codes, scale, zero = chosen(weight, grid)
    before = lost(weight, codes, scale, zero)
    for _ in range(30):
        codes = swept_codes(weight, codes, scale, zero, moments(), grid)
        now = lost(weight, codes, scale, zero)
        assert (now <= before + 1e-6 * before).all()
        before = now
    for channel in range(WIDTH):
        for step in (-1, 1):
            moved = codes.clone()
            moved[:, channel] = (moved[:, channel] + step).clamp(0, 2**grid.bits - 1)
            assert (lost(weight, moved, scale, zero) >= before - 1e-5 * before).all()


@pytest.mark.parametrize("columns", [8, 20, 4096])
def test_the_columns_at_once_change_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, grid = tensor(12, WIDTH, seed=3), Grid(bits=4, is_symmetric=True)
    given = chosen(weight, grid)
    whole = swept_codes(weight, *given, moments(), grid)
    monkeypatch.setattr("attar.compressors.quantize.descent.COLUMNS_AT_ONCE", columns)
    assert float((swept_codes(weight, *given, moments(), grid) == whole).double().mean()) > 0.98


def test_refined_loses_less_than_the_correction_it_begins_with() -> None:
    weight, grid = tensor(24, WIDTH, seed=4), Grid(bits=4, is_symmetric=True)
    errors = [
        output_error(weight, method(weight, moments(), grid, BLOCK).dequantized(), moments())
        for method in (OrderedCorrected(), Refined(num_sweeps=1), Refined(num_sweeps=4))
    ]
    assert errors[1] < 0.97 * errors[0] and errors[2] <= errors[1]


def test_its_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_sweeps is 0; accepted: at least 1"):
        Refined(num_sweeps=0)
    with pytest.raises(ValueError, match="damping is 0.0; accepted: above 0"):
        Refined(damping=0.0)
