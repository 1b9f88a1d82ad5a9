"""One graph in which each product can be switched between float32 and integers. What a node costs is measured on the real kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

SWITCHES = "integer_nodes"


@dataclass(frozen=True)
class Choice:
    """A node of the float graph and the nodes that could stand in its place."""

    name: str
    node: ir.Node
    nodes: list[ir.Node]
    result: ir.Value


def add_switches(graph: ir.Graph, choices: Sequence[Choice]) -> None:
    """Make each choice an `If` on its place in a new input, a vector of booleans. True runs the integer nodes."""
    switches = ir.Value(name=SWITCHES, shape=ir.Shape([len(choices)]), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.append(switches)
    for index, choice in enumerate(choices):
        index_value = ir.node("Constant", [], {"value": ir.tensor(np.array(index))})
        condition = ir.node("Gather", [switches, index_value.outputs[0]])
        old = choice.node
        float_node = ir.node(old.op_type, list(old.inputs), dict(old.attributes), domain=old.domain)
        float_node.outputs[0].name = f"{choice.name}.float"
        for number, node in enumerate(choice.nodes):  # a branch may not use a name that the graph around it has
            for switch_index, value in enumerate(node.outputs):
                value.name = f"{choice.name}.{number}.{switch_index}"
        choice.result.name = f"{choice.name}.integers"
        branch = ir.node(
            "If",
            [condition.outputs[0]],
            {
                "then_branch": ir.Graph([], [choice.result], nodes=choice.nodes, name=f"{choice.name}.then"),
                "else_branch": ir.Graph([], [float_node.outputs[0]], nodes=[float_node], name=f"{choice.name}.else"),
            },
        )
        output = branch.outputs[0]
        output.shape, output.type, name = old.outputs[0].shape, old.outputs[0].type, old.outputs[0].name
        graph.insert_before(old, [index_value, condition, branch])
        ir.convenience.replace_all_uses_with(old.outputs[0], output, replace_graph_outputs=True)
        graph.remove(old, safe=True)
        output.name = name


def rank_nodes(
    loss_of: Callable[[Sequence[bool]], float],
    names: Sequence[str],
    *,
    on_node: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Return what each node costs when it alone is in integers, by name, the costliest first."""
    costs = {}
    for index, name in enumerate(names):
        costs[name] = loss_of([other == index for other in range(len(names))])
        on_node(1)
    return dict(sorted(costs.items(), key=lambda entry: -entry[1]))


def keep_worst(
    loss_of: Callable[[Sequence[bool]], float],
    names: Sequence[str],
    costs: Mapping[str, float],
    *,
    max_loss: float,
    max_kept: int,
) -> tuple[list[str], float]:
    """Return the fewest nodes to keep in float so that the loss is within `max_loss`, and that loss. The costliest go first.

    Bisected, since keeping more never adds much; at most `max_kept`, whose loss may still be above the limit.
    """
    order = sorted(names, key=lambda name: -costs[name])

    def loss_with(num_kept: int) -> float:
        kept_names = set(order[:num_kept])
        return loss_of([name not in kept_names for name in names])

    low, high = 0, min(max_kept, len(order))
    loss = loss_with(high)
    if loss > max_loss:
        return order[:high], loss
    while low < high:
        middle = (low + high) // 2
        tried = loss_with(middle)
        if tried <= max_loss:
            high, loss = middle, tried
        else:
            low = middle + 1
    return order[:high], loss


class Switched:
    """A session of such a graph that is asked as if it had no switches; set them before each run."""

    def __init__(self, session: Any, num_nodes: int) -> None:
        self._session = session
        self.switches = np.zeros(num_nodes, dtype=bool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        """Run with the switches as they are set."""
        binding.bind_cpu_input(SWITCHES, self.switches)
        self._session.run_with_iobinding(binding)
