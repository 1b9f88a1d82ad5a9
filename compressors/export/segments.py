"""The nodes of each block in a traced graph. Found, freed of what other parts share, joined by one state, compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from attar.compressors.export.names import PAST

# Where the exporter notes the modules a node comes from, outermost first.
SCOPES = "pkg.torch.onnx.name_scopes"


class NotRepeatedError(ValueError):
    """The nodes of one block are not those of another of its kind with other weights; trace all blocks."""


@dataclass(frozen=True)
class Segment:
    """The nodes of one block, in the graph's order."""

    scope: str
    nodes: list[ir.Node]

    @staticmethod
    def of(graph: ir.Graph, prefix: str, index: int) -> Segment:
        scope = f"{prefix}.{index}"
        nodes = [node for node in graph if scope in node.metadata_props.get(SCOPES, "").replace("'", '"').split('"')]
        if not nodes or any(
            attribute.type == ir.AttributeType.GRAPH for node in nodes for attribute in node.attributes.values()
        ):
            raise NotRepeatedError(f"{scope}: no nodes, or nodes with graphs of their own")
        return Segment(scope, nodes)


def hoist(graph: ir.Graph, segments: list[Segment]) -> None:
    """Move to the graph's beginning what one block computes from constants or inputs alone and another part reads too."""
    home = {node: segment for segment in segments for node in segment.nodes}
    moved: list[ir.Node] = []
    known: dict[ir.Node, bool] = {}

    def move(node: ir.Node) -> None:
        if node in moved:
            return
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None:
                move(producer)
        moved.append(node)

    for segment in segments:
        for node in segment.nodes:
            outside = [user for output in node.outputs for user in output.consumers() if home.get(user) is not segment]
            if outside and _is_free(node, known):
                move(node)
    for node in moved:
        if node in home:
            home[node].nodes.remove(node)
        graph.remove(node)
    graph.insert_before(next(iter(graph)), moved)


def _is_free(node: ir.Node, known: dict[ir.Node, bool]) -> bool:
    """Say whether a node computes from weights and inputs of the graph alone; the caches are a block's own."""
    if node not in known:
        known[node] = all(
            value is None
            or (value.producer() is None and not str(value.name).startswith(PAST))
            or (value.producer() is not None and _is_free(value.producer(), known))  # type: ignore[arg-type]
            for value in node.inputs
        )
    return known[node]


def joints(graph: ir.Graph, segments: Sequence[Segment], partner: int) -> list[ir.Value]:
    """Return the state in front of each block and the one behind the last. It must be all that a block hands on.

    `partner`: a later block of the first one's kind; 0 when there is none, and what stands for the first state is not asked for.
    """
    home = {node: index for index, segment in enumerate(segments) for node in segment.nodes}
    states: list[ir.Value] = []
    for index, segment in enumerate(segments):
        outputs = [output for node in segment.nodes for output in node.outputs]
        handed = [output for output in outputs if any(home.get(user) != index for user in output.consumers())]
        if len(handed) != 1:
            raise NotRepeatedError(f"{segment.scope} hands on {len(handed)} values, one state was expected")
        states += handed
    if not all(_reads(segment, state) for segment, state in zip(segments[1:], states, strict=False)):
        raise NotRepeatedError("a block does not read the state of the one before it")
    if not partner:
        return [states[0], *states]
    if len(segments[0].nodes) != len(segments[partner].nodes):
        raise NotRepeatedError(f"{segments[partner].scope} has another number of nodes than {segments[0].scope}")
    at, port = _reads(segments[partner], states[partner - 1])[0]
    first = segments[0].nodes[at].inputs[port]
    if first is None:
        raise NotRepeatedError("the first block reads no state")
    return [first, *states]


def _reads(segment: Segment, state: ir.Value) -> list[tuple[int, int]]:
    return [
        (at, port) for at, node in enumerate(segment.nodes) for port, value in enumerate(node.inputs) if value is state
    ]


def check_same(first: Segment, second: Segment, states: Sequence[ir.Value], before: int, after: int) -> None:
    """Raise NotRepeatedError unless the second block's nodes are the first one's, on weights of its own."""
    same: dict[ir.Value, ir.Value] = {states[before]: states[after]}
    if len(first.nodes) != len(second.nodes):
        raise NotRepeatedError(f"{second.scope}: {len(second.nodes)} nodes, {len(first.nodes)} in {first.scope}")
    for node, twin in zip(first.nodes, second.nodes, strict=True):
        is_same = (node.op_type, node.domain, len(node.inputs)) == (twin.op_type, twin.domain, len(twin.inputs))
        if not is_same or not _equal_attributes(node, twin):
            raise NotRepeatedError(f"{twin.name} is not what {node.name} is")
        for a, b in zip(node.inputs, twin.inputs, strict=True):
            if not _corresponds(a, b, same, (first.scope, second.scope), (before, after)):
                raise NotRepeatedError(f"{twin.name} reads something else than {node.name}")
        same |= dict(zip(node.outputs, twin.outputs, strict=True))


def _corresponds(
    a: ir.Value | None,
    b: ir.Value | None,
    same: Mapping[ir.Value, ir.Value],
    scopes: tuple[str, str],
    locations: tuple[int, int],
) -> bool:
    if a is None or b is None or a is b:
        return a is b
    if a in same:
        return same[a] is b
    turned = str(a.name).replace(f"{scopes[0]}.", f"{scopes[1]}.", 1)
    return (
        b.name in (turned, str(a.name).replace(f"{PAST}.{locations[0]}.", f"{PAST}.{locations[1]}.", 1))
        and a.name != b.name
    )


def _equal_attributes(node: ir.Node, twin: ir.Node) -> bool:
    if node.attributes.keys() != twin.attributes.keys():
        return False
    for name, attribute in node.attributes.items():
        a, b = attribute.value, twin.attributes[name].value
        is_tensor = attribute.type == ir.AttributeType.TENSOR
        if not (np.array_equal(a.numpy(), b.numpy()) and a.dtype == b.dtype if is_tensor else a == b):
            return False
    return True
