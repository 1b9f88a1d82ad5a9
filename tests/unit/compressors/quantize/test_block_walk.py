"""Blocks rounded one after the other: which inputs they are calibrated on, what shares an input, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.block_walk import BlockWalk, round_blocks
from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import Needs, OrderedCorrected, RoundToNearest
from attar.compressors.quantize.rounded import IntegerRounding, RoundedMatrix
from attar.stages.ingest.tiny_model import random_model

SAMPLES = [list(range(3, 23)), list(range(40, 51)), list(range(100, 116))]


def tiny(family: str = "llama") -> Any:
    return random_model(family, num_blocks=3, hidden_size=32)[0]


def batches(model: Any, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [pad_right(SAMPLES[at : at + size], model.device) for at in range(0, len(SAMPLES), size)]


def matrices(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "layers." in name and isinstance(module, torch.nn.Linear)]


def rounding(method: Any) -> IntegerRounding:
    return IntegerRounding(method=method, grid=Grid(bits=4, is_symmetric=True), group_size=16)


def read_by(model: Any, name: str) -> Tensor:
    """What a matrix reads on the samples, one at a time, without padding."""
    rows: list[Tensor] = []
    module = model.get_submodule(name)
    hook = module.register_forward_pre_hook(lambda module, args: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for sample in SAMPLES:
            model(input_ids=torch.tensor([sample]), use_cache=False)
    hook.remove()
    return torch.cat(rows)


@dataclass
class Crude:
    """Rounds the first matrices in 3 bits and the others in 8."""

    num_crude: int
    needs: Needs = "moments"
    num_rounded: int = 0

    def __call__(self, weight: Tensor, inputs: Tensor | None) -> RoundedMatrix:
        self.num_rounded += 1
        grid = Grid(bits=3 if self.num_rounded <= self.num_crude else 8, is_symmetric=True)
        return IntegerRounding(method=RoundToNearest(), grid=grid, group_size=16)(weight, None)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_each_block_is_calibrated_on_what_the_rounded_ones_before_it_give(family: str) -> None:
    model = tiny(family)
    seen: dict[str, Tensor] = {}

    class Spy:
        needs = "moments"

        def __call__(self, weight: Tensor, inputs: Tensor | None, grid: Grid, block_size: int) -> Any:
            assert inputs is not None
            name = f"{len(seen)}"
            seen[name] = inputs
            return RoundToNearest()(weight, inputs, grid, block_size)

    names = matrices(model)
    last = [name for name in names if "layers.2." in name]
    rounded = dict(round_blocks(model, batches(model), rounding(Spy()), names))
    assert rounded.keys() == set(names)
    # the model now holds rounded matrices in all blocks; the first matrix of the last block reads what those before it give
    rows = read_by(model, last[0])
    moments = rows.T @ rows / len(rows)
    assert any(
        known.shape == moments.shape and torch.allclose(known, moments, rtol=1e-4, atol=1e-5) for known in seen.values()
    )
    for name, matrix in rounded.items():
        assert torch.equal(model.get_submodule(name).weight, matrix.dequantized())


def test_matrices_that_read_the_same_values_share_them_and_padding_is_left_out() -> None:
    model = tiny()
    walk = BlockWalk(model, batches(model))
    block = {name: model.get_submodule(name) for name in matrices(model) if "layers.0." in name}
    groups = walk.inputs_of(block, "moments")
    short = [[name.rpartition(".")[2] for name in group.names] for group in groups]
    assert short == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert {group.num_tokens for group in groups} == {sum(map(len, SAMPLES))}
    for group in groups:
        rows = read_by(model, group.names[0])
        torch.testing.assert_close(group.mean(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    powers = walk.inputs_of(block, "powers")[0].mean()
    torch.testing.assert_close(powers, groups[0].mean().diagonal(), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]


def test_what_needs_no_inputs_runs_no_text() -> None:
    model = tiny()
    names = matrices(model)[:3]
    rounded = dict(round_blocks(model, [], rounding(RoundToNearest()), names))
    assert set(rounded) == set(names)


def test_error_correction_moves_the_models_outputs_less_than_rounding() -> None:
    expected = read_by(tiny(), "lm_head")
    lost = {}
    for name, method in (("nearest", RoundToNearest()), ("ordered", OrderedCorrected())):
        model = tiny()
        for _ in round_blocks(model, batches(model), rounding(method), matrices(model)):
            pass
        lost[name] = float((read_by(model, "lm_head") - expected).square().sum())
    assert lost["ordered"] < 0.8 * lost["nearest"]


def test_a_product_makes_up_for_what_the_blocks_before_it_did_to_its_inputs() -> None:
    """The second block, not rounded itself, gives again what the original's gives, as far as its products can."""
    original = tiny()
    first = [name for name in matrices(original) if "layers.0." in name]
    lost = {}
    for drift in (0.0, 1.0):
        model = tiny()

        names = [*first, "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
        for _ in round_blocks(model, batches(model), Crude(num_crude=4), names, drift=drift):
            pass
        module = "model.layers.1.self_attn.q_proj"
        outputs = read_by(model, module) @ model.get_submodule(module).weight.T
        expected = read_by(original, module) @ original.get_submodule(module).weight.T
        lost[drift] = float((outputs - expected).detach().square().sum() / expected.detach().square().sum())
    assert lost[1.0] < 0.8 * lost[0.0]


def test_without_drift_weights_are_left_as_they_are() -> None:
    """Where the original reads the same, there is nothing to make up for."""
    model = tiny()
    walk = BlockWalk(model, batches(model), is_following=True)
    names = [name for name in matrices(model) if "layers.0." in name]
    [group, *_] = walk.inputs_of({name: model.get_submodule(name) for name in names}, "moments")
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group.led_back(weight, 1.0), weight, rtol=1e-4, atol=1e-5)


def test_values_that_are_not_finite_are_refused() -> None:
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[SAMPLES[0][4], 0] = torch.inf
    with pytest.raises(ValueError, match=r"reads values that are not finite on the calibration text"):
        list(round_blocks(model, batches(model), rounding(OrderedCorrected()), matrices(model)))
