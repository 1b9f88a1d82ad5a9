"""One graph of an encoder that ends where an exit says what the exit before it said. Else it goes on to the last block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from attar.compressors.encode.early_exits import states_after
from attar.compressors.encode.graph import OPSETS, Hidden, traced_graph
from attar.compressors.encode.session import DEPTH, MIN_AGREEMENT, TOKENS, VECTORS

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra

    from attar.compressors.encode.encoder import SentenceEncoder


class TracedExits(nn.Module):
    """An encoder at several depths. Of each exit the tokens' states, the texts' vectors, and how alike these are to those before."""

    def __init__(self, encoder: SentenceEncoder, exits: Sequence[int], hidden: Hidden) -> None:
        super().__init__()
        self.encoder, self._exits, self._hidden = encoder, exits, hidden

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> tuple[Tensor, ...]:
        self._hidden.mask = attention_mask.to(torch.int32)
        with states_after(self.encoder.model, self._exits) as states:
            self.encoder.model(input_ids=input_ids, attention_mask=attention_mask)
        vectors = [self.encoder.pooling(some, attention_mask) for some in states]
        before = [vectors[0], *vectors]
        alike = [
            nn.functional.cosine_similarity(*pair, dim=-1).amin(dim=0) for pair in zip(vectors, before, strict=False)
        ]
        return tuple(part for exit_parts in zip(states, vectors, alike, strict=True) for part in exit_parts)


def export_early(
    encoder: SentenceEncoder, exits: Sequence[int], min_agreement: float, opset: int = OPSETS[1]
) -> ir.Model:
    """Return the graph. A batch ends at the first exit, from the second on, all of whose vectors are so alike to the exit before (cosine).

    `min_agreement` is an input with that default: above 1 no batch ends early. `num_blocks` beside the vectors says where it ended.
    """
    width = encoder.model.config.hidden_size
    shapes: dict[str, list[str | int]] = {}
    for depth in exits:
        shapes[f"{TOKENS}_{depth}"] = ["batch_size", "sequence_length", width]
        shapes[f"{VECTORS}_{depth}"] = ["batch_size", width]
        shapes[f"agreement_{depth}"] = []
    graph = traced_graph(lambda hidden: TracedExits(encoder, exits, hidden), encoder.model, shapes, opset)
    _Decisions.of(graph.graph, exits, min_agreement).put()
    return graph


@dataclass
class _Decisions:
    """Moves what only later exits need into branches of the graph, one in the other."""

    graph: ir.Graph
    exits: Sequence[int]
    # of each exit: states, vectors, agreement
    values: list[tuple[ir.Value, ...]]
    # the nodes that each exit needs beyond those of the exits before it
    parts: list[list[ir.Node]]
    threshold: ir.Value

    @staticmethod
    def of(graph: ir.Graph, exits: Sequence[int], min_agreement: float) -> _Decisions:
        import onnx_ir as ir  # in an extra

        outputs = list(graph.outputs)
        values = [tuple(outputs[start : start + 3]) for start in range(0, len(outputs), 3)]
        # how alike to the one before the first exit and the last are, nobody asks
        needed = [_ancestors(some[: 2 + (0 < index < len(exits) - 1)]) for index, some in enumerate(values)]
        parts, seen = [], set()
        for nodes in needed:
            parts.append([node for node in graph if node in nodes and node not in seen])
            seen |= nodes
        threshold = ir.Value(
            name=MIN_AGREEMENT,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape([]),
            const_value=ir.tensor(np.array(min_agreement, np.float32), name=MIN_AGREEMENT),
        )
        return _Decisions(graph, exits, values, parts, threshold)

    def put(self) -> None:
        """Change the graph in place."""
        self.graph.outputs.clear()
        unread = set(self.graph) - {node for nodes in self.parts for node in nodes}
        later = [node for nodes in self.parts[2:] for node in nodes]
        self.graph.remove([*later, *unread])
        nodes, outputs = self._after(1)
        for node in nodes:
            self.graph.append(node)
        for value, name in zip(outputs, (TOKENS, VECTORS, DEPTH), strict=True):
            value.name = name
        self.graph.inputs.append(self.threshold)
        self.graph.register_initializer(self.threshold)
        self.graph.outputs.extend(outputs)

    def _after(self, index: int) -> tuple[list[ir.Node], list[ir.Value]]:
        """Return what comes behind an exit, and its outputs: end there, or go on in a branch."""
        import onnx_ir as ir  # in an extra

        depth, (states, vectors, alike) = self.exits[index], self.values[index]
        if index + 1 == len(self.exits):
            depth_node = self._depth(depth, "last")
            return [depth_node], [states, vectors, depth_node.outputs[0]]
        depth_node = self._depth(depth, "here")
        same = [
            _node("Identity", [value], f"{name}_at_{depth}") for value, name in ((states, TOKENS), (vectors, VECTORS))
        ]
        ends = [_typed(node.outputs[0], value) for node, value in zip(same, (states, vectors), strict=True)]
        here = ir.Graph([], [*ends, depth_node.outputs[0]], nodes=[*same, depth_node], name=f"end_at_{depth}")
        more, outputs = self._after(index + 1)
        goes_on = ir.Graph([], outputs, nodes=[*self.parts[index + 1], *more], name=f"beyond_{depth}")
        is_alike = _node("GreaterOrEqual", [alike, self.threshold], f"is_alike_at_{depth}")
        made = [
            _typed(ir.Value(name=f"{name}_from_{depth}"), value)
            for name, value in ((TOKENS, states), (VECTORS, vectors), (DEPTH, depth_node.outputs[0]))
        ]
        branches = {"then_branch": here, "else_branch": goes_on}
        choice = ir.node("If", [is_alike.outputs[0]], attributes=branches, outputs=made, name=f"decide_at_{depth}")
        return [is_alike, choice], made

    @staticmethod
    def _depth(depth: int, where: str) -> ir.Node:
        import onnx_ir as ir  # in an extra

        node = _node("Constant", [], f"{DEPTH}_{depth}_{where}", value=ir.tensor(np.array(depth, np.int64)))
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
        return node


def _ancestors(values: Sequence[ir.Value]) -> set[ir.Node]:
    """Return every node that some values need."""
    nodes: set[ir.Node] = set()
    waiting = [node for value in values if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node not in nodes:
            nodes.add(node)
            waiting += [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
    return nodes


def _node(kind: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Node:
    """Return a node with one output, named apart from all others: a branch sees the names around it."""
    import onnx_ir as ir  # in an extra

    return ir.node(kind, inputs, attributes=attributes, outputs=[ir.Value(name=name)], name=f"node_{name}")


def _typed(value: ir.Value, like: ir.Value) -> ir.Value:
    value.type, value.shape = like.type, like.shape
    return value
