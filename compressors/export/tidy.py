"""Take out of a traced graph what only the trace needed. Shapes computed at run time, turns that undo each other, weights turned at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from attar.compressors.export.experts import STORED, stored_experts

SWAP_HEADS = (0, 2, 1, 3)


def tidy(model: ir.Model) -> None:
    """Simplify the graph in place; what it computes stays the same.

    Reshapes get constant shapes; slices of everything, pairs of head swaps and of reshapes go; each matrix is stored as the product
    wants it (a tied one, which two nodes read, once and as it is).
    """
    for rewrite in (
        _constant_shape,
        _without_whole_slice,
        _without_pair,
        _without_pair,
        _stored_transposed,
        _stored_sum,
        _stored_experts,
    ):
        for node in list(model.graph):
            rewrite(model.graph, node)
        common.RemoveUnusedNodesPass()(model)
    model.graph.opset_imports.pop(STORED.partition("::")[0], None)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(
        model
    )  # the trace notes its call stack on every node, paths of this machine included


def _constant_shape(graph: ir.Graph, node: ir.Node) -> None:
    """Reshape to dimensions that are known, or those of the input (0), or one unknown (-1)."""
    if node.op_type != "Reshape" or node.inputs[0] is None:
        return
    if node.outputs[0].shape is None or node.inputs[0].shape is None:
        return
    before, after = list(node.inputs[0].shape), list(node.outputs[0].shape)
    wanted = [
        dim if isinstance(dim, int) else 0 if index < len(before) and before[index] == dim else -1
        for index, dim in enumerate(after)
    ]
    if wanted.count(-1) > 1 or 0 in after:
        return
    node.replace_input_with(1, _constant(graph, node, np.array(wanted, np.int64)))
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _without_whole_slice(graph: ir.Graph, node: ir.Node) -> None:
    """Let a slice that leaves the shape as it was read through: it took everything."""
    before = node.inputs[0].shape if node.op_type == "Slice" and node.inputs[0] else None
    if before is not None and before == node.outputs[0].shape:
        _replace(node.outputs[0], node.inputs[0])  # type: ignore[arg-type]


def _without_pair(graph: ir.Graph, node: ir.Node) -> None:
    """Let a second swap of heads, or a reshape back, read what the first read."""
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
    if source is None or source.op_type != node.op_type:
        return
    first, last = source.inputs[0], node.outputs[0]
    is_swap = node.op_type == "Transpose" and _perm(node) == _perm(source) == SWAP_HEADS
    is_back = node.op_type == "Reshape" and first.shape is not None and first.shape == last.shape  # type: ignore[union-attr]
    if is_swap or is_back:
        _replace(last, first)  # type: ignore[arg-type]


def _stored_transposed(graph: ir.Graph, node: ir.Node) -> None:
    """Store a matrix the way its product reads it. A tied one stays: it would be stored twice."""
    if node.op_type != "Transpose" or _perm(node) != (1, 0):
        return
    weight = node.inputs[0]
    if weight is None or weight.const_value is None or len(weight.uses()) > 1:
        return
    tensor = weight.const_value
    shape = ir.Shape(list(tensor.shape)[::-1])  # type: ignore[arg-type]
    _store(graph, node, f"{weight.name}.T", tensor.dtype, shape, lambda: np.ascontiguousarray(tensor.numpy().T))


def _stored_sum(graph: ir.Graph, node: ir.Node) -> None:
    """Store a weight and the number that is always added to it as their sum."""
    if node.op_type != "Add" or None in node.inputs:
        return
    weight, number = (ir.convenience.get_const_tensor(value) for value in node.inputs)  # type: ignore[arg-type]
    if weight is None or number is None or number.size != 1 or not node.inputs[0].is_initializer():  # type: ignore[union-attr]
        return
    name = f"{node.inputs[0].name}.sum"  # type: ignore[union-attr]
    _store(graph, node, name, weight.dtype, weight.shape, lambda: weight.numpy() + number.numpy())


def _stored_experts(graph: ir.Graph, node: ir.Node) -> None:
    """Store the weights of experts in the order in which their node reads them."""
    weight = node.inputs[0] if f"{node.domain}::{node.op_type}" == STORED else None
    if weight is None or weight.const_value is None:
        return
    order = {name: bool(attribute.as_int()) for name, attribute in node.attributes.items()}
    tensor = weight.const_value
    shape = node.outputs[0].shape
    _store(graph, node, f"{weight.name}.stored", tensor.dtype, shape, lambda: stored_experts(tensor.numpy(), **order))


def _store(graph: ir.Graph, node: ir.Node, name: str, dtype: Any, shape: Any, made: Callable[[], Any]) -> None:
    """Let a weight that is made when it is written stand for the node."""
    tensor = ir.LazyTensor(lambda: ir.tensor(made(), name=name), dtype=dtype, shape=shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    _replace(node.outputs[0], value)


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes["perm"].as_ints())


def _replace(old: ir.Value, new: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(old, new)


def _constant(graph: ir.Graph, before: ir.Node, array: np.ndarray[Any, Any]) -> ir.Value:
    node = ir.node("Constant", [], attributes={"value": ir.tensor(array)})
    graph.insert_before(before, node)
    return node.outputs[0]
