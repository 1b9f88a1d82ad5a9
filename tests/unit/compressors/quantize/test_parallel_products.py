"""Integer products of one input, joined into one: the same numbers from fewer calls, and only where they may be joined."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from attar.compressors.quantize.parallel import join_parallel

NUM_CHANNELS, BLOCK = 64, 32
RANDOM = np.random.default_rng(0)


def stored(graph: ir.Graph, name: str, numbers: np.ndarray) -> ir.Value:
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def product(graph: ir.Graph, name: str, source: ir.Value, num_outputs: int, bits: int) -> ir.Node:
    """An integer product with random codes; zero points too."""
    num_blocks, blob = NUM_CHANNELS // BLOCK, BLOCK * bits // 8
    codes = RANDOM.integers(0, 256, (num_outputs, num_blocks, blob), np.uint8)
    scales = RANDOM.random((num_outputs, num_blocks), np.float32)
    zeros = RANDOM.integers(0, 256, num_outputs * -(-num_blocks * bits // 8), np.uint8)
    inputs = [stored(graph, f"{name}.{part}", values) for part, values in (("c", codes), ("s", scales), ("z", zeros))]
    attributes = {"K": NUM_CHANNELS, "N": num_outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    node = ir.node("MatMulNBits", [source, *inputs], attributes, domain="com.microsoft", name=name)
    node.outputs[0].name = f"{name}.out"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape(["rows", num_outputs])
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return node


def run(model: ir.Model, rows: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})


@pytest.mark.parametrize("bits", [4, 8])
def test_joined_products_give_the_same_numbers_in_fewer_calls(bits: int) -> None:
    x = ir.Value(name="x", shape=ir.Shape(["rows", NUM_CHANNELS]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], name="g", opset_imports={"": 20, "com.microsoft": 1})
    for name, num_outputs in (("q", 48), ("k", 16), ("v", 16)):
        product(graph, name, x, num_outputs, bits)
    product(graph, "other_bits", x, 16, 12 - bits)
    model = ir.Model(graph, ir_version=10)
    rows = RANDOM.standard_normal((3, NUM_CHANNELS)).astype(np.float32)
    before = run(model, rows)
    assert join_parallel(graph) == 1
    assert Counter(node.op_type for node in graph) == {"MatMulNBits": 2, "Split": 1}
    assert [value.name for value in graph.outputs] == ["q.out", "k.out", "v.out", "other_bits.out"]
    for expected, other in zip(before, run(model, rows), strict=True):
        assert np.array_equal(expected, other) and np.abs(expected).max() > 0
    assert join_parallel(graph) == 0, "nothing is left to join"
    assert not [name for name in graph.initializers if name in ("q.c", "k.c", "v.c")], "no tensor is stored twice"


def test_a_tensor_that_something_else_reads_stays_where_it_is() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["rows", NUM_CHANNELS]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], name="g", opset_imports={"": 20, "com.microsoft": 1})
    first = product(graph, "head", x, 16, 8)
    product(graph, "beside", x, 16, 8)
    lookup = ir.node("Identity", [first.inputs[1]])
    graph.append(lookup)
    assert join_parallel(graph) == 0
