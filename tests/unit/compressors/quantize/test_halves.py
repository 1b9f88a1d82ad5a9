"""A graph in 16 bits: which nodes have them and which stay float32, numbers past their range, and roundings that the CPU leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from attar.compressors.quantize.halves import HALVES, Half, rounded_results, to_halves

F32, F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
WIDTH, NUM_TOKENS = 8, 5
# positions go through angles, hidden states through a norm of several nodes, scores through a mask and a softmax
TEXT = """
<ir_version: 10, opset_import: ["": 20]>
block (float[11, 8] table, float[8, 8] first, float[8, 8] second, float[8] inv_freq,
       int64[B, T] input_ids, int64[B, T] position_ids, float[B, 2, P, 4] "past_key_values.0.key")
 => (float[B, T, 8] logits, float[B, 2, P, 4] "present.0.key")
{
  states = Gather (table, input_ids)
  two = Constant <value = float {2.0}> ()
  last = Constant <value = int64[1] {-1}> ()
  squares = Pow (states, two)
  power = ReduceMean <keepdims = 1> (squares, last)
  epsilon = Constant <value = float {1e-12}> ()
  above = Add (power, epsilon)
  root = Sqrt (above)
  normed = Div (states, root)
  column = Unsqueeze (position_ids, last)
  positions = Cast <to = 1> (column)
  turns = Mul (positions, inv_freq)
  angles = Cos (turns)
  turned = Mul (normed, angles)
  queries = MatMul (turned, first)
  scores = MatMul (queries, second)
  zero = Constant <value = int64 {0}> ()
  is_hidden = Equal (input_ids, zero)
  masked = Constant <value = float {-1e9}> ()
  nothing = Constant <value = float {0.0}> ()
  row = Where (is_hidden, masked, nothing)
  bias = Unsqueeze (row, last)
  seen = Add (scores, bias)
  weights = Softmax <axis = -1> (seen)
  logits = MatMul (weights, first)
  "present.0.key" = Identity ("past_key_values.0.key")
}
"""
# no array of numpy's is a cache in bfloat16
PLAIN = TEXT.replace(', float[B, 2, P, 4] "past_key_values.0.key"', "").replace(
    ', float[B, 2, P, 4] "present.0.key"', ""
)
PLAIN = PLAIN.replace('  "present.0.key" = Identity ("past_key_values.0.key")\n', "")


def small(text: str = TEXT, **weights: np.ndarray) -> ir.Model:
    drawn = np.random.default_rng(0)
    tensors = {
        "table": drawn.standard_normal((11, WIDTH), np.float32),
        "first": drawn.standard_normal((WIDTH, WIDTH), np.float32),
        "second": drawn.standard_normal((WIDTH, WIDTH), np.float32),
        "inv_freq": (10000.0 ** -np.linspace(0, 1, WIDTH)).astype(np.float32),
    } | weights
    model = ir.from_onnx_text(text)
    for value in list(model.graph.inputs)[: len(tensors)]:
        value.const_value = ir.tensor(tensors[str(value.name)], name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def result_of(model: ir.Model, positions: int = 0, ids: Any = None) -> np.ndarray:
    """What onnxruntime's CPU gives."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    rows = np.arange(1, NUM_TOKENS + 1)[None] if ids is None else ids
    feeds: dict[str, np.ndarray] = {"input_ids": rows, "position_ids": positions + np.arange(NUM_TOKENS)[None]}
    for entry in session.get_inputs()[2:]:
        feeds[entry.name] = np.ones((1, 2, 3, 4), kinds[entry.type])
    return session.run(["logits"], feeds)[0]  # type: ignore[return-value]


def kinds_of(model: ir.Model) -> Mapping[str, ir.DataType | None]:
    """The type of each value, by name."""
    return {str(name): value.dtype for name, value in ir.convenience.create_value_mapping(model.graph).items()}


def test_products_and_weights_have_16_bits_and_the_rest_32() -> None:
    model = small()
    to_halves(model, "float16")
    types = kinds_of(model)
    assert {types[name] for name in ("states", "queries", "scores", "logits.float16")} == {F16}
    wide = ("squares", "power", "above", "root", "normed", "turns", "angles", "turned", "seen", "weights", "logits")
    assert {types[name] for name in wide} == {F32}
    assert {types[f"{name}.float16"] for name in ("table", "first", "second")} == {F16}
    assert types["inv_freq"] == F32 and "first" not in model.graph.initializers
    assert types["past_key_values.0.key"] == types["present.0.key"] == F16


@pytest.mark.parametrize(("precision", "digits"), [("float16", 2e-2), ("bfloat16", 1.5e-1)])
def test_it_says_what_float32_says_to_the_digits_of_16_bits(precision: Half, digits: float) -> None:
    expected, model = result_of(small(PLAIN)), small(PLAIN)
    to_halves(model, precision)
    rounded_results(model)
    np.testing.assert_allclose(result_of(model), expected, atol=digits)
    assert np.abs(result_of(model) - expected).max() > digits / 100, "rounded it is"


def test_late_positions_keep_their_angles() -> None:
    """float16 has no 4,097 and no 65,537: angles of late tokens would be those of others."""
    model = small()
    to_halves(model, "float16")
    expected = result_of(small(), positions=4095)
    np.testing.assert_allclose(result_of(model, positions=4095), expected, atol=2e-2)


def test_a_row_of_padding_alone_stays_finite() -> None:
    model = small()
    to_halves(model, "float16")
    rounded_results(model)
    hidden = np.zeros((1, NUM_TOKENS), np.int64)
    assert np.isfinite(result_of(model, ids=hidden)).all()
    [masked] = [node for node in model.graph if node.outputs[0].name == "masked"]
    tensor = ir.convenience.get_const_tensor(masked.outputs[0])
    assert tensor is not None and np.isfinite(tensor.numpy().astype(np.float16))


def test_an_overflow_is_seen_that_onnxruntimes_cpu_hides() -> None:
    """300 x 300 x 8 is no float16. The CPU computes in float32 and leaves the roundings between nodes out."""
    large = np.full((WIDTH, WIDTH), 300.0, np.float32)
    plain, checked = small(first=large, second=large), small(first=large, second=large)
    for model in (plain, checked):
        to_halves(model, "float16")
    rounded_results(checked)
    assert np.isfinite(result_of(plain)).all() and not np.isfinite(result_of(checked)).all()


def test_the_cpu_has_no_products_in_bfloat16() -> None:
    """If onnxruntime gets them, `evaluate` need not refuse such a graph there, nor `export` stand in for a GPU."""
    model = small(PLAIN)
    to_halves(model, "bfloat16")
    with pytest.raises(Exception, match=r"Could not find an implementation for \w+"):
        result_of(model)


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_rounded_to_the_nearest_when_they_are_written(precision: Half, tmp_path: Path) -> None:
    model = small()
    expected = torch.from_numpy(model.graph.initializers["table"].const_value.numpy()).to(getattr(torch, precision))  # type: ignore[union-attr]
    to_halves(model, precision)
    ir.save(model, tmp_path / "model.onnx", external_data="data", size_threshold_bytes=0)
    stored = ir.load(tmp_path / "model.onnx").graph.initializers[f"table.{precision}"].const_value
    assert stored is not None and stored.nbytes == 2 * expected.numel()
    np.testing.assert_array_equal(stored.numpy().astype(np.float32), expected.float().numpy())


def test_a_graph_with_branches_is_refused() -> None:
    branches = """
    <ir_version: 10, opset_import: ["": 20]>
    both (bool which, float[2] x) => (float[2] y)
    { y = If (which) <then_branch = a () => (float[2] p) { p = Identity (x) }, else_branch = b () => (float[2] q) { q = Neg (x) }> }
    """
    with pytest.raises(ValueError, match="the graph has branches, .*; accepted: precision float32"):
        to_halves(ir.from_onnx_text(branches), "float16")
