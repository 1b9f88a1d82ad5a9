"""Trace a few blocks of a model and repeat their nodes for all others of their kind. A trace costs seconds a block, a repetition nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from attar.compressors.export.names import PAST, PRESENT, CachePart, cache_names
from attar.compressors.export.segments import NotRepeatedError, Segment, check_same, hoist, joints
from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unroll(
    graph: ir.Graph,
    model: PreTrainedModel,
    prefix: str,
    parts: Sequence[CachePart],
    kinds: Sequence[int],
    traced: Sequence[int],
) -> None:
    """Turn the graph of a model's blocks `traced` into the graph of all, in place. `prefix` names its list of blocks, `parts` its cache.

    What belongs to a block is known by the scopes of its nodes, a weight by its name. Raises NotRepeatedError, and leaves the graph
    unusable, unless the two traced blocks of a kind are the same nodes on other weights, joined to the rest by one state.
    """
    segments = [Segment.of(graph, prefix, offset) for offset in range(len(traced))]
    hoist(graph, segments)
    partner = next((offset for offset in range(1, len(traced)) if kinds[traced[offset]] == kinds[0]), 0)
    states = joints(graph, segments, partner)
    patterns = _patterns(segments, states, [kinds[index] for index in traced])
    inside = {node for segment in segments for node in segment.nodes}
    around = [node for node in graph if node not in inside]
    blocks = decoder_blocks(model)
    _rename(graph, prefix, segments, traced)
    last, state, made = None, states[0], {}
    for index, kind in enumerate(kinds):
        if index in traced:
            offset = traced.index(index)
            if state is not states[offset]:
                _reread(segments[offset].nodes, states[offset], state)
            last, state = segments[offset].nodes[-1], states[offset + 1]
            continue
        offset = patterns[kind]
        copy = _Copy(graph, f"{prefix}.{traced[offset]}", f"{prefix}.{index}", blocks[index], states[offset], state)
        nodes = copy.nodes(segments[offset].nodes, traced[offset], index)
        assert last is not None, "the first block is always traced"
        graph.insert_after(last, nodes)
        last, state = nodes[-1], copy.values[states[offset + 1]]
        made |= copy.ports
    if state is not states[-1]:
        _reread(around, states[-1], state)
    _order_ports(graph, made, parts)


def _patterns(segments: Sequence[Segment], states: Sequence[ir.Value], kinds: Sequence[int]) -> dict[int, int]:
    """Return the place to repeat for each kind: the second of it, since what comes before that one is a block too."""
    patterns: dict[int, int] = {}
    for index, kind in enumerate(kinds):
        if kind in patterns:
            check_same(segments[patterns[kind]], segments[index], states, patterns[kind], index)
        patterns[kind] = index
    return patterns


def _rename(graph: ir.Graph, prefix: str, segments: Sequence[Segment], traced: Sequence[int]) -> None:
    """Give weights and caches of the traced blocks the numbers of their blocks; from the last on, so that no name is taken yet."""
    for offset in reversed(range(len(segments))):
        index = traced[offset]
        if offset == index:
            continue
        for name in [name for name in graph.initializers if name.startswith(f"{prefix}.{offset}.")]:
            graph.initializers[name].name = name.replace(f"{prefix}.{offset}.", f"{prefix}.{index}.", 1)
        for value in (*graph.inputs, *graph.outputs):
            for ports in (PAST, PRESENT):
                if str(value.name).startswith(f"{ports}.{offset}."):
                    value.name = str(value.name).replace(f"{ports}.{offset}.", f"{ports}.{index}.", 1)


def _reread(nodes: Sequence[ir.Node], old: ir.Value, new: ir.Value) -> None:
    for node in nodes:
        for port, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(port, new)


class _Copy:
    """One block's nodes made anew for another block: on its weights, its cache, and the state that stands in front of it."""

    def __init__(
        self, graph: ir.Graph, old: str, new: str, block: nn.Module, before: ir.Value, state: ir.Value
    ) -> None:
        self.values: dict[ir.Value, ir.Value] = {before: state}
        self.ports: dict[str, ir.Value] = {}
        self._graph, self._old, self._new = graph, f"{old}.", f"{new}."
        self._tensors = dict(block.named_parameters()) | dict(block.named_buffers())

    def nodes(self, pattern: Sequence[ir.Node], source: int, target: int) -> list[ir.Node]:
        outputs_of_graph = set(self._graph.outputs)
        return [self._node(node, source, target, outputs_of_graph) for node in pattern]

    def _node(self, node: ir.Node, source: int, target: int, ends: set[ir.Value]) -> ir.Node:
        inputs = [None if value is None else self._input(value, source, target) for value in node.inputs]
        outputs = []
        for value in node.outputs:
            name = str(value.name)
            name = (
                name.replace(f"{PRESENT}.{source}.", f"{PRESENT}.{target}.", 1) if value in ends else f"{name}.{target}"
            )
            self.values[value] = ir.Value(name=name, shape=value.shape, type=value.type)
            outputs.append(self.values[value])
            if value in ends:
                self.ports[name] = self.values[value]
        return ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            overload=node.overload,
            outputs=outputs,
            version=node.version,
            name=f"{node.name}.{target}",
        )

    def _input(self, value: ir.Value, source: int, target: int) -> ir.Value:
        if value in self.values:
            return self.values[value]
        name = str(value.name)
        if name.startswith(self._old) and value.is_initializer():
            self.values[value] = self._weight(value, name.removeprefix(self._old))
        elif name.startswith(f"{PAST}.{source}."):
            name = name.replace(f"{PAST}.{source}.", f"{PAST}.{target}.", 1)
            self.values[value] = ir.Value(name=name, shape=value.shape, type=value.type)
            self.ports[name] = self.values[value]
        return self.values.get(value, value)

    def _weight(self, value: ir.Value, name: str) -> ir.Value:
        if name not in self._tensors:
            raise NotRepeatedError(f"{value.name} is no weight of its block")
        tensor = TorchTensor(self._tensors[name], name=self._new + name)
        weight = ir.Value(
            name=self._new + name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.register_initializer(weight)
        return weight


def _order_ports(graph: ir.Graph, made: Mapping[str, ir.Value], parts: Sequence[CachePart]) -> None:
    """Put the caches of all blocks in order, among inputs and outputs."""
    for ports, prefix in ((graph.inputs, PAST), (graph.outputs, PRESENT)):
        known = {str(value.name): value for value in ports} | dict(made)
        caches = [known[name] for name in cache_names(parts, prefix)]
        others = [value for value in ports if not str(value.name).startswith(f"{prefix}.")]
        ports.clear()
        ports.extend([*others, *caches])
