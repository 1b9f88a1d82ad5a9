"""Second moments of what each product of an ONNX graph is multiplied with, read off the running graph, a few products at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.free_memory import give_back
from stages.onnx_folder import read_graph
from stages.onnx_session import open_session
from stages.progress import bar

# Moments held at once, in bytes: a wide matrix has a square of its width.
MAX_BYTES = 64 << 20


def input_moments(folder: Path, samples: Sequence[Sequence[int]], *, is_diagonal: bool) -> Iterator[dict[str, Tensor]]:
    """Yield E[x x^T] (or its diagonal) over all tokens of the samples by product, in groups that fit in `MAX_BYTES`.

    Products that read the same values are in one group and share the tensor.
    """
    import onnx_ir as ir  # in an extra
    from onnx_ir.passes import common

    from compressors.quantize.nodes import products

    names: dict[str, list[str]] = {}
    widths: dict[str, int] = {}
    for product in products(read_graph(folder).graph):
        source = str(product.node.inputs[0].name)  # type: ignore[union-attr]
        names.setdefault(source, []).append(product.name)
        widths[source] = product.shape[1]
    groups = _groups(widths, is_diagonal)
    counter = bar("watching inputs", len(groups) * len(samples), "texts")
    for group in groups:
        graph = read_graph(folder)
        graph.graph.outputs[:] = [value for node in graph.graph for value in node.outputs if value.name in group]
        common.RemoveUnusedNodesPass()(graph)  # later blocks and the head would be opened and computed for nothing
        session = open_session(folder, graph=ir.to_proto(graph).SerializeToString(), is_frugal=True)
        sums = {source: torch.zeros(widths[source] if is_diagonal else (widths[source],) * 2) for source in group}
        num_tokens = 0
        for sample in samples:
            for source, values in zip(group, session.run(group, _feeds(session, sample)), strict=True):
                inputs = torch.from_numpy(values).flatten(0, -2)
                sums[source] += inputs.square().sum(0) if is_diagonal else inputs.T @ inputs
            num_tokens += len(sample)
            counter.advance()
        del session, graph  # before the next group opens its own
        give_back()
        found = {name: sums.pop(source).div_(num_tokens) for source in group for name in names[source][:1]}
        yield found | {name: found[names[source][0]] for source in group for name in names[source]}
        del found


def _groups(widths: dict[str, int], is_diagonal: bool) -> list[list[str]]:
    groups: list[list[str]] = []
    held = MAX_BYTES
    for source, width in widths.items():
        num_bytes = 4 * width * (1 if is_diagonal else width)
        if held + num_bytes > MAX_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(source)
        held += num_bytes
    return groups


def _feeds(session: object, sample: Sequence[int]) -> dict[str, np.ndarray]:
    ids = np.array([sample], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
    inputs = session.get_inputs()  # type: ignore[attr-defined]
    return {
        entry.name: feeds[entry.name]
        if entry.name in feeds
        else np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
        for entry in inputs
    }
