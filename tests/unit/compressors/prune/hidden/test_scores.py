"""What a scan sees of the residual stream, the channels that follow from it, and the repair by least squares."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.calibration import Sample, batches
from attar.compressors.prune.hidden.cut import KeptChannels, fewer_channels
from attar.compressors.prune.hidden.refit import StreamRefit
from attar.compressors.prune.hidden.rotate import rotate_stream
from attar.compressors.prune.hidden.scores import StreamScan, StreamUnits
from attar.compressors.prune.hidden.stream import stream_readings
from attar.compressors.prune.solve.candidates import score_units
from attar.stages.ingest.tiny_model import random_model

IDS = torch.randint(3, 250, (3, 24), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 15:] = 0


def scanned(model, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK, *, is_rotated: bool = True) -> StreamUnits:
    scan = StreamScan(model, is_rotated=is_rotated)
    with scan.watching(mask), torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    return scan.units()


def states_read(model) -> list[torch.Tensor]:
    """What every norm reads of the tokens that are no padding, each divided by its root mean square."""
    read: list[torch.Tensor] = []
    hooks = [
        reading.norm.register_forward_pre_hook(lambda module, args: read.append(args[0][MASK.bool()].double()))
        for reading in stream_readings(model)
    ]
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
    for hook in hooks:
        hook.remove()
    return [state / state.pow(2).mean(dim=-1, keepdim=True).sqrt() for state in read]


def test_energy_and_directions_are_those_of_the_states_without_padding() -> None:
    model = random_model("llama")[0]
    units, states = scanned(model), states_read(model)
    expected = torch.stack([state.pow(2).mean(dim=0) for state in states]) / 64
    torch.testing.assert_close(units.energy.double(), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(units.importance.double(), expected.sum(dim=0), atol=1e-6, rtol=1e-4)  # weights are one
    covariance = sum(state.T @ state for state in states)
    turned = units.rotation.double().T @ covariance @ units.rotation.double()
    torch.testing.assert_close(turned.diagonal() / turned.trace(), units.variances.double(), atol=1e-6, rtol=1e-3)
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-3 * turned.diagonal().max()
    assert (units.variances.diff() <= 0).all() and units.variances.sum() == pytest.approx(1.0)


def test_a_channel_that_holds_nothing_scores_zero_and_goes_first() -> None:
    model = random_model("llama")[0]
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 7] = 0
        for block in decoder_blocks(model):
            block.self_attn.o_proj.weight[7] = 0
            block.mlp.down_proj.weight[7] = 0
        expected = model(input_ids=IDS, attention_mask=MASK).logits
    units = scanned(model)
    assert units.importance[7] == 0.0 and (units.importance > 0).sum() == 63
    for axis in ("hidden", "rotated"):
        channels = units.keep(axis, 63)
        torch.testing.assert_close(channels.factors, torch.ones(9), atol=1e-4, rtol=0)
        with fewer_channels(model, channels), torch.no_grad():
            torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits, expected, atol=1e-3, rtol=0)
    assert 7 not in units.keep("hidden", 63).indices


def test_a_large_weight_of_a_norm_makes_its_channel_important() -> None:
    model = random_model("llama")[0]
    before = scanned(model).importance
    with torch.no_grad():
        model.model.norm.weight[5] = 10.0
    after = scanned(model).importance
    assert after.argmax() == 5 and before.argmax() != 5


def test_what_was_seen_comes_back_from_its_names() -> None:
    units = scanned(random_model("llama")[0])
    back = StreamUnits.of_tensors({**units.tensors(), "channels": torch.ones(2)})
    assert back is not None and all(torch.equal(getattr(back, name), value) for name, value in vars(units).items())
    assert StreamUnits.of_tensors({"channels": torch.ones(2)}) is None
    plain = scanned(random_model("llama")[0], is_rotated=False)
    assert set(plain.tensors()) == {"stream.importance", "stream.energy"}


@pytest.mark.parametrize("axes", [("hidden",), ("hidden", "channels", "rotated")])
def test_the_pass_that_ranks_units_sees_the_stream(axes: tuple[str, ...]) -> None:
    model = random_model("llama")[0]
    rows = list(batches([Sample(row.tolist()) for row in IDS], 2, torch.device("cpu"), skip_first=False))
    units = score_units(model, rows, axes)
    expected = scanned(model, mask=torch.ones_like(MASK), is_rotated="rotated" in axes)
    assert units.stream is not None and set(units.of_axis) == {*axes} - {"hidden", "rotated"}
    torch.testing.assert_close(units.stream.energy, expected.energy, atol=1e-6, rtol=1e-4)
    assert (units.stream.rotation is None) == ("rotated" not in axes)


def test_refit_is_the_ridge_regression_of_what_a_norm_loses() -> None:
    """Streamed in two batches with padding, against least squares on all tokens at once, of the third norm and its readers."""
    model = random_model("llama")[0]
    channels = scanned(model).keep("hidden", 48)
    given = states_read(model)[2]
    indices = channels.indices
    read = given[:, indices] / given[:, indices].pow(2).sum(dim=-1, keepdim=True).sqrt() * 8.0 * channels.factors[2]
    lacking = given.clone()
    lacking[:, indices] -= read
    penalty = (0.1 * read.pow(2).sum(dim=0)).sqrt().diag()
    stacked = torch.cat([lacking, torch.zeros(48, 64, dtype=torch.float64)])
    change = torch.linalg.lstsq(torch.cat([read, penalty]), stacked).solution
    part = decoder_blocks(model)[1].self_attn
    before = {name: getattr(part, name).weight.detach().double().clone() for name in ("q_proj", "v_proj", "o_proj")}
    fit = StreamRefit(channels)
    for rows in (slice(0, 1), slice(1, 3)):
        fit.update(model, IDS[rows], MASK[rows])
    left = fit.fold(model, 0.1)
    for name in ("q_proj", "v_proj"):
        expected = before[name].clone()
        expected[:, indices] += before[name] @ change.T
        torch.testing.assert_close(getattr(part, name).weight.double(), expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(
        part.o_proj.weight.double(), before["o_proj"]
    )  # it reads heads, as many numbers as the stream has channels
    error = (read @ change - lacking).pow(2).sum() / lacking.pow(2).sum()
    assert left[2] == pytest.approx(float(error), rel=1e-3) and len(left) == 9 and max(left) < 1.0


@pytest.mark.parametrize("axis", ["hidden", "rotated"])
def test_refit_brings_the_logits_nearer(axis: str) -> None:
    model = random_model("llama")[0]
    units = scanned(model)
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK).logits
        if axis == "rotated":
            rotate_stream(model, units.rotation)
        channels: KeptChannels = units.keep(axis, 56).rotated
        repaired = copy.deepcopy(model)
        fit = StreamRefit(channels)
        fit.update(model, IDS, MASK)
        fit.fold(repaired, 0.1)
        errors = []
        for cut in (repaired, model):
            with fewer_channels(cut, channels):
                errors.append(float((cut(input_ids=IDS, attention_mask=MASK).logits - expected)[MASK.bool()].norm()))
    assert errors[0] < 0.9 * errors[1]
