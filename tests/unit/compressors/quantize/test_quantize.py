"""Integers in blocks: what codes stand for, how far they are off, which method loses less, and how many nodes are kept."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.quantize.blocks import BlockWeights, Grid
from attar.compressors.quantize.methods import WEIGHT_METHODS, output_error, powers_of, quantize_rows
from attar.compressors.quantize.switchboard import keep_worst, rank_nodes

BLOCK = 16


def matrix(num_outputs: int = 24, num_inputs: int = 64) -> torch.Tensor:
    return torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(0))


def moments(num_inputs: int = 64) -> torch.Tensor:
    """Of inputs that go together and are uneven, as those of a model are."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(num_inputs, num_inputs // 4, generator=generator) * torch.logspace(-1, 1, num_inputs)[:, None]
    inputs = torch.randn(500, num_inputs // 4, generator=generator) @ mixing.T
    inputs += 0.05 * torch.randn(inputs.shape, generator=generator)
    return inputs.T @ inputs / 500


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("name", WEIGHT_METHODS)
def test_codes_fit_their_bits_and_unused_blocks_are_zero(name: str, is_symmetric: bool, bits: int) -> None:
    weight = matrix()
    weight[:, :BLOCK] = 0.0
    weight[3] = 0.0
    whole, error = quantize_rows(
        build(WEIGHT_METHODS, name), weight, moments(), Grid(bits=bits, is_symmetric=is_symmetric), BLOCK
    )
    assert whole.codes.dtype == torch.uint8 and int(whole.codes.max()) < 2**bits
    assert whole.block_size == BLOCK and (whole.zero_points is None) == is_symmetric
    assert torch.isfinite(whole.dequantized()).all() and not whole.dequantized()[3].any()
    assert 0 <= error < {4: 0.05, 8: 2e-4}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_off_by_half_a_step_at_most(bits: int) -> None:
    weight = matrix()
    whole = build(WEIGHT_METHODS, "nearest")(weight, None, Grid(bits=bits, is_symmetric=False), BLOCK)
    off = (whole.dequantized() - weight).abs().unflatten(1, (-1, BLOCK)).amax(-1)
    # the zero point is rounded too, so that a block's end may be cut off by another half
    assert (off <= 1.001 * whole.scales).all()
    assert float((off <= 0.501 * whole.scales).float().mean()) > 0.5


def test_each_method_loses_less_than_the_simpler_one() -> None:
    weight, inputs = matrix(), moments()
    grid = Grid(bits=4, is_symmetric=False)
    lost = {
        name: output_error(weight, build(WEIGHT_METHODS, name)(weight, inputs, grid, BLOCK).dequantized(), inputs)
        for name in WEIGHT_METHODS
    }
    assert lost["error_corrected"] < 0.95 * lost["searched"] and lost["error_corrected"] < 0.95 * lost["nearest"]
    by_power = {
        name: output_error(
            weight, build(WEIGHT_METHODS, name)(weight, inputs, grid, BLOCK).dequantized(), powers_of(inputs)
        )
        for name in ("searched", "nearest")
    }
    assert by_power["searched"] < by_power["nearest"], "it minimises just that"


def test_output_error_is_what_the_outputs_lose() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs, weight = torch.randn(200, 64, generator=generator), matrix()
    rounded = build(WEIGHT_METHODS, "nearest")(weight, None, Grid(bits=4, is_symmetric=True), BLOCK).dequantized()
    outputs, other = inputs @ weight.T, inputs @ rounded.T
    expected = float((outputs - other).square().sum() / outputs.square().sum())
    assert output_error(weight, rounded, inputs.T @ inputs / 200) == pytest.approx(expected, rel=1e-4)


def test_rows_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs, grid = matrix(), moments(), Grid(bits=4, is_symmetric=False)
    method = build(WEIGHT_METHODS, "error_corrected")
    whole = method(weight, inputs, grid, BLOCK)
    monkeypatch.setattr("attar.compressors.quantize.methods.ROWS_AT_ONCE", 7)
    parts, _ = quantize_rows(method, weight, inputs, grid, BLOCK)
    assert float((parts.codes == whole.codes).float().mean()) > 0.99  # another order of adding may flip a tie


def test_two_codes_of_four_bits_in_a_byte_and_odd_rows_of_zero_points_filled_up() -> None:
    codes = torch.arange(48, dtype=torch.uint8).reshape(1, 48) % 16
    whole = BlockWeights(codes, torch.ones(1, 3), torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4)
    assert whole.packed_codes().shape == (1, 3, 8) and int(whole.packed_codes()[0, 0, 0]) == 0 | 1 << 4
    assert whole.packed_zero_points().tolist() == [[1 | 2 << 4, 3]]  # type: ignore[union-attr]


@pytest.mark.parametrize(("max_loss", "expected"), [(9.0, 0), (3.0, 2), (0.5, 4), (0.0, 5)])
def test_the_fewest_of_the_costliest_are_kept(max_loss: float, expected: int) -> None:
    costs = {"a": 1.0, "b": 4.0, "c": 0.5, "d": 2.0, "e": 0.25}

    def loss(switches: list[bool]) -> float:
        return sum(cost for cost, is_on in zip(costs.values(), switches, strict=True) if is_on)

    ranked = rank_nodes(loss, list(costs))
    assert ranked == costs and list(ranked) == ["b", "d", "a", "c", "e"]
    kept_names, left = keep_worst(loss, list(costs), ranked, max_loss=max_loss, max_kept=5)
    assert kept_names == ["b", "d", "a", "c", "e"][:expected] and left == sum(sorted(costs.values())[: 5 - expected])
    kept_names, left = keep_worst(loss, list(costs), ranked, max_loss=0.0, max_kept=2)
    assert kept_names == ["b", "d"] and left == 1.75
