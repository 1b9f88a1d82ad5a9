"""A graph in 16 bits: its weights, products and cache. Sums, softmax, recurrences and angles stay in float32, and so do inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from attar.compressors.export.names import GROWING, PAST, PRESENT

Half = Literal["float16", "bfloat16"]
HALVES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
WIDE = ir.DataType.FLOAT
# In float32 whatever they read: what 16 bits overflow (squares), lose (sums of small numbers) or carry over a whole text (states).
KEPT_WIDE = {
    *("Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "CumSum", "Softplus"),
    *("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"),
    *("GlobalAveragePool", "LinearAttention", "CausalConvWithState"),
}
# Nodes that only move numbers: 16 bits where any of what they move has 16.
MOVING = {
    *(
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Concat",
        "Expand",
        "Tile",
        "Flatten",
        "Identity",
    ),
    *("Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements", "Where", "Pad"),
    *("SplitToSequence", "SequenceAt"),
}
# Nodes whose result is a list of pieces.
CUTTING = ("SplitToSequence", "SequenceConstruct")
# In 16 bits whatever they read, unless that is positions and masks alone. Norms among them compute in float32 inside (`stash_type`).
NARROW = {
    *("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LayerNormalization", "RMSNormalization"),
    *("GroupQueryAttention", "MultiHeadAttention", "RotaryEmbedding", "MoE"),
}
# Inputs whose type does not follow the others': scales of a cache in integers, of an image.
WIDE_INPUTS = {"GroupQueryAttention": (12, 13), "Resize": (1, 2)}
CASTS = ("Cast", "CastLike")
# Nodes that make no floats of floats.
COUNTING = {
    *("Shape", "Size", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "IsNaN", "IsInf"),
    *("ArgMax", "ArgMin", "NonZero"),
}
# What stands for a number past the range, such as the score of a hidden column: its exponential is 0 and sums with it stay finite.
LARGEST = 3e4


class Source(Enum):
    """What a float is made of, which decides how it is held. CONSTANT: nothing that changes. INDEX: ids, positions and masks alone."""

    CONSTANT = "constant"
    INDEX = "index"
    WIDE = "wide"
    HALF = "half"


def to_halves(model: ir.Model, precision: Half) -> None:
    """Hold a float32 graph's weights in 16 bits and compute its products in them, in place.

    Weights are rounded when they are written. Float inputs and outputs stay float32 but for keys and values, which become 16 bits.
    Raises ValueError for a graph with branches.
    """
    if any(attribute.type == ir.AttributeType.GRAPH for node in model.graph for attribute in node.attributes.values()):
        raise ValueError("the graph has branches, which have no form in 16 bits; accepted: precision float32")
    _Conversion(model.graph, HALVES[precision]).run()
    common.RemoveUnusedNodesPass()(model)


def rounded_results(model: ir.Model) -> None:
    """Let a graph in 16 bits compute in float32 and round each result to them, in place.

    A processor without such kernels can run that. onnxruntime's CPU runs no bfloat16 products, and takes the roundings out of float16
    ones: an overflow would pass by unseen.
    """
    graph, halves = model.graph, set(HALVES.values())
    widened: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type in (*CASTS, "Constant"):
            continue
        for port, value in enumerate(node.inputs):
            if value is not None and value.dtype in halves:
                if value not in widened:
                    widened[value] = _cast(graph, value, WIDE, before=node)
                node.replace_input_with(port, widened[value])
        for output in list(node.outputs):
            kind = output.dtype
            if kind in halves and node.op_type in CUTTING:  # pieces are rounded where they are taken out
                output.type = _type_of(output, WIDE)
            elif kind is not None and kind in halves:
                _cast_output(graph, output, WIDE, kind)


@dataclass
class _Conversion:
    """A graph on its way to 16 bits: of each float value its source, and what was made of it for those that read it otherwise."""

    graph: ir.Graph
    half: ir.DataType
    sources: dict[ir.Value, Source] = field(default_factory=dict)
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        for value in self.graph.inputs:
            if value.dtype == WIDE:
                is_cached = str(value.name).startswith(f"{PAST}.") and str(value.name).endswith(GROWING)
                self._hold(value, Source.HALF if is_cached else Source.WIDE)
        for value in self.graph.initializers.values():
            if value.dtype == WIDE:
                self.sources[value] = Source.CONSTANT
        for node in list(self.graph):
            self._convert(node)
        for value in list(self.graph.outputs):
            is_cached = str(value.name).startswith(f"{PRESENT}.") and str(value.name).endswith(GROWING)
            wanted = self.half if is_cached else WIDE
            if value in self.sources and value.dtype != wanted:
                _cast_output(self.graph, value, value.dtype or WIDE, wanted)
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            self.graph.initializers.pop(name)

    def _convert(self, node: ir.Node) -> None:
        if node.op_type == "Constant":
            self._convert_constant(node)
            return
        source = self._source_of(node)
        floats = [output for output in node.outputs if _is_float(node, output, self.sources)]
        if node.op_type not in CASTS:
            narrow, wide = self.half, WIDE_INPUTS.get(node.op_type, ())
            for port, value in enumerate(node.inputs):
                if value is not None and value in self.sources:
                    self._feed(node, port, narrow if source is Source.HALF and port not in wide else WIDE)
        for output in floats:
            self._hold(output, source)

    def _convert_constant(self, node: ir.Node) -> None:
        value = node.outputs[0]
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.dtype != WIDE:
            return
        self._hold(value, Source.CONSTANT)
        array = _in_range(tensor.numpy(), self.half)
        if array is not None:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
            value.const_value = None

    def _source_of(self, node: ir.Node) -> Source:
        """Return how the node's results are held."""
        read = [self.sources[value] for value in node.inputs if value is not None and value in self.sources]
        changing = [source for source in read if source is not Source.CONSTANT]
        first = node.inputs[0] if node.inputs else None
        if node.op_type == "CastLike":
            return self.sources.get(node.inputs[1], Source.INDEX)  # type: ignore[arg-type] - it has two
        if node.op_type == "Cast":
            return Source.INDEX if not changing or changing == [Source.INDEX] else Source.WIDE
        if node.op_type == "Gather" and first is not None and first.is_initializer() and first in self.sources:
            return Source.HALF  # a row of an embedding
        if node.op_type == "Transpose" and first is not None and first.is_initializer():
            return Source.HALF  # a matrix that the embedding shares, turned for its product
        if all(source is Source.INDEX for source in changing):
            return Source.INDEX
        is_square = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
        if node.op_type in KEPT_WIDE or is_square:
            return Source.WIDE
        if node.op_type in NARROW or (node.op_type in MOVING and Source.HALF in changing):
            return Source.HALF
        # of sums and products with float32 numbers among what changes the result is float32 too
        return Source.HALF if set(changing) == {Source.HALF} else Source.WIDE

    def _hold(self, value: ir.Value, source: Source) -> None:
        self.sources[value] = source
        value.type = _type_of(value, self.half if source is Source.HALF else WIDE)

    def _feed(self, node: ir.Node, port: int, wanted: ir.DataType) -> None:
        """Let the node read its input in this type."""
        value = node.inputs[port]
        assert value is not None, "asked for those that are there"
        if value.dtype == wanted:
            return
        key = value, wanted
        if key not in self.made:
            stored = value.is_initializer() and value.const_value is not None
            self.made[key] = self._stored(value) if stored else _cast(self.graph, value, wanted, before=node)
        node.replace_input_with(port, self.made[key])

    def _stored(self, value: ir.Value) -> ir.Value:
        """Return the same weight in 16 bits, rounded when it is written."""
        tensor, name = value.const_value, f"{value.name}.{self.half.name.lower()}"
        assert tensor is not None, "a weight"
        lazy = ir.LazyTensor(partial(_halved, tensor, self.half, name), dtype=self.half, shape=tensor.shape, name=name)  # type: ignore[arg-type]
        stored = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self.half), const_value=lazy)
        self.graph.register_initializer(stored)
        return stored


def _halved(tensor: ir.TensorProtocol, half: ir.DataType, name: str) -> ir.Tensor:
    array = np.asarray(tensor.numpy())
    inside = _in_range(array, half)
    return ir.Tensor((array if inside is None else inside).astype(half.numpy()), dtype=half, name=name)


def _in_range(array: np.ndarray, half: ir.DataType) -> np.ndarray | None:
    """Return the numbers with those that 16 bits cannot hold made finite; None where there are none."""
    with np.errstate(over="ignore"):
        is_past = ~np.isfinite(array.astype(half.numpy()).astype(np.float32))
    return np.where(is_past, np.sign(array) * np.float32(LARGEST), array) if is_past.any() else None


def _is_float(node: ir.Node, output: ir.Value, sources: dict[ir.Value, Source]) -> bool:
    """Say whether a node gives floats; the exporter leaves the types of some small values out."""
    if node.op_type == "Cast":
        return node.attributes["to"].as_int() == int(WIDE)
    if node.op_type == "CastLike":
        return node.inputs[1] in sources
    if output.dtype is not None or node.op_type in COUNTING:
        return output.dtype == WIDE
    return any(value in sources for value in node.inputs if value is not None)


def _type_of(value: ir.Value, kind: ir.DataType) -> ir.TypeProtocol:
    """Return a type of its own, since copies of a block share theirs."""
    producer, tensor = value.producer(), ir.TensorType(kind)
    return ir.SequenceType(tensor) if producer is not None and producer.op_type in CUTTING else tensor


def _cast(graph: ir.Graph, value: ir.Value, to: ir.DataType, *, before: ir.Node) -> ir.Value:
    """Return the value in another type, made right behind it, so that every later node may read it."""
    node = ir.node("Cast", [value], {"to": int(to)})
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), value.shape
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(before, node)
    return node.outputs[0]


def _cast_output(graph: ir.Graph, value: ir.Value, computed: ir.DataType, to: ir.DataType) -> None:
    """Let a node's result be computed in one type and handed on in another, under the name that it has."""
    producer, name = value.producer(), value.name
    assert producer is not None, "the result of a node"
    cast = ir.node("Cast", [value], {"to": int(to)})
    other = cast.outputs[0]
    other.shape, other.type, value.type = value.shape, ir.TensorType(to), ir.TensorType(computed)
    ir.convenience.replace_all_uses_with(value, other, replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    graph.insert_after(producer, cast)
    value.name, other.name = f"{name}.{computed.name.lower()}", name
