"""Second moments of the inputs of an ONNX graph's products. They are read off the running graph, a few products at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attar.stages.artifacts.onnx_folder import read_structure
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra

# Held at once, in bytes: moments (a wide matrix has a square of its width) and the matrices that their products read.
MAX_BYTES = 64 << 20


def input_moments(folder: Path, samples: Sequence[Sequence[int]], *, is_diagonal: bool) -> Iterator[dict[str, Tensor]]:
    """Yield E[x x^T] (or its diagonal) over all tokens of the samples by product, in groups that fit in `MAX_BYTES`.

    Products that read the same values are in one group and share the tensor. A group goes on from the values where the one before it
    ended: the graph is run once in all, and only a part of its weights is open at a time.
    """
    model = read_structure(folder)
    inputs = _watched(model.graph, is_diagonal=is_diagonal)
    groups = _groups(inputs)
    counter = bar("watching inputs", len(groups) * len(samples), "texts")
    known = [_feeds(model.graph, sample) for sample in samples]
    num_tokens = sum(map(len, samples))
    for group, later in zip(groups, _read_later(model.graph, groups), strict=True):
        session = _session_between(folder, model, known[0], [*group, *later])
        sums = {name: torch.zeros(inputs[name].moments_shape) for name in group}
        for index, values in enumerate(known):
            if session is not None:
                wanted = [entry.name for entry in session.get_outputs()]
                feeds = {entry.name: values[entry.name] for entry in session.get_inputs()}
                values |= dict(zip(wanted, session.run(wanted, feeds), strict=True))
            for name in group:
                rows = torch.from_numpy(values[name]).flatten(0, -2)
                sums[name] += rows.square().sum(0) if is_diagonal else rows.T @ rows
            known[index] = {name: values[name] for name in later}
            counter.advance()
        del session  # before the next group opens its own
        give_back()
        moments = {name: sums.pop(name).div_(num_tokens) for name in group}
        yield {product: moments[name] for name in group for product in inputs[name].products}
        del moments


@dataclass
class _Input:
    """What some products are multiplied with: their names, the shape of its moments, and the bytes of both."""

    moments_shape: tuple[int, ...]
    num_bytes: int
    products: list[str]


def _watched(graph: ir.Graph, *, is_diagonal: bool) -> dict[str, _Input]:
    from attar.compressors.quantize.nodes import products  # its library is in an extra

    inputs_by_name: dict[str, _Input] = {}
    for product in products(graph):
        width = product.shape[1]
        shape = (width,) if is_diagonal else (width, width)
        watched = inputs_by_name.setdefault(str(product.node.inputs[0].name), _Input(shape, 4 * math.prod(shape), []))  # type: ignore[union-attr]
        watched.num_bytes += product.num_bytes
        watched.products.append(product.name)
    return inputs_by_name


def _groups(inputs: dict[str, _Input]) -> list[list[str]]:
    groups: list[list[str]] = []
    held = MAX_BYTES
    for name, entry in inputs.items():
        if held + entry.num_bytes > MAX_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += entry.num_bytes
    return groups


def _read_later(graph: ir.Graph, groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return, for each group, what is known once it has run and is read after it. What depends on no input is made again instead."""
    import onnx_ir as ir  # in an extra

    varying = {value.name for value in graph.inputs}
    for node in graph:
        if any(value is not None and value.name in varying for value in node.inputs):
            varying.update(value.name for value in node.outputs)
    values = ir.convenience.create_value_mapping(graph)
    made, last_read = {str(value.name): -1 for value in graph.inputs}, dict[str, int]()
    for index, group in enumerate(groups):
        waiting = [values[name] for name in group]
        while waiting:
            value = waiting.pop()
            if value.name not in varying:
                continue
            last_read[str(value.name)] = index
            node = value.producer()
            if node is not None and value.name not in made:
                made |= {str(output.name): index for output in node.outputs}
                waiting += [parent for parent in node.inputs if parent is not None]
    return [[name for name, last in last_read.items() if made[name] <= index < last] for index in range(len(groups))]


def _session_between(folder: Path, model: ir.Model, known: dict[str, np.ndarray], wanted: Sequence[str]) -> Any:
    """Open the part of the graph that leads from the known values to the wanted ones; None when all of those are known."""
    import onnx_ir as ir  # in an extra

    missing = [name for name in wanted if name not in known]
    if not missing:
        return None
    values = ir.convenience.create_value_mapping(model.graph)
    for name, array in known.items():  # an input needs a type, which a value inside a graph may lack
        values[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        values[name].shape = values[name].shape or ir.Shape([None] * array.ndim)
    part = ir.convenience.extract(model.graph, list(known), missing)
    proto = ir.to_proto(ir.Model(part, ir_version=model.ir_version, functions=list(model.functions.values())))
    return open_session(folder, graph=proto.SerializeToString(), is_frugal=True)


def _feeds(graph: ir.Graph, sample: Sequence[int]) -> dict[str, np.ndarray]:
    ids = np.array([sample], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
    for entry in graph.inputs:
        if entry.name not in feeds:
            num_heads, head_size = (int(entry.shape[axis]) for axis in (1, 3))  # type: ignore[index, arg-type]
            kind = entry.dtype.numpy()  # type: ignore[union-attr]
            feeds[str(entry.name)] = np.zeros((1, num_heads, 0, head_size), kind)  # a cache that is empty
    return feeds
