"""Join products that read the same input, such as q, k and v. One call of the kernel instead of three, whose threads then meet once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir
import torch

from attar.compressors.quantize.nodes import store_tensor

KERNEL = "MatMulNBits"


def join_parallel(graph: ir.Graph) -> int:
    """Put one integer product and a split in place of each group that shares input, bits and block size. Return how many groups.

    The result is the same, number for number: each output channel has its own codes, scales and zero points, and they only move.
    """
    groups: dict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node.op_type == KERNEL and all(value is None or _is_its_own(value) for value in node.inputs[1:]):
            shared = {name: attribute.value for name, attribute in node.attributes.items() if name != "N"}
            groups[id(node.inputs[0]), len(node.inputs), *sorted(shared.items())].append(node)
    joined = [group for group in groups.values() if len(group) > 1]
    for group in joined:
        _join(graph, group)
    return len(joined)


def _is_its_own(value: ir.Value) -> bool:
    """Say whether nothing else reads a stored tensor: a tied head's codes are the embedding's too."""
    return value.const_value is not None and len(value.uses()) == 1


def _join(graph: ir.Graph, group: list[ir.Node]) -> None:
    first = group[0]
    sizes = [node.attributes.get_int("N") for node in group]
    tensors = [_stacked(graph, [node.inputs[index] for node in group]) for index in range(1, len(first.inputs))]
    attributes = {name: attribute.value for name, attribute in first.attributes.items()} | {"N": sum(sizes)}  # type: ignore[arg-type]
    product = ir.node(KERNEL, [first.inputs[0], *tensors], attributes, domain=first.domain)
    stored = store_tensor(f"{tensors[0].name}.sizes", torch.tensor(sizes), graph)
    split = ir.node("Split", [product.outputs[0], stored], {"axis": -1}, num_outputs=len(group))
    graph.insert_before(first, [product, split])
    for node, part in zip(group, split.outputs, strict=True):
        old = node.outputs[0]
        part.shape, part.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, part, replace_graph_outputs=True)
        name = old.name
        graph.remove(node, safe=True)
        part.name = name


def _stacked(graph: ir.Graph, values: list[ir.Value | None]) -> ir.Value:
    """Return a stored tensor with the rows of these, and forget them."""
    parts = [value.const_value.numpy() for value in values if value is not None and value.const_value is not None]
    name = "+".join(str(value.name) for value in values if value is not None)
    for value in values:
        if value is not None:
            graph.initializers.pop(str(value.name), None)
    return store_tensor(name, torch.from_numpy(np.concatenate(parts)), graph)
