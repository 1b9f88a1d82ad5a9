"""Experts in a graph: one node that reads the chosen ones, whatever form a family's gate has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from attar.compressors.export.experts import Gating, stored_experts
from attar.compressors.export.graph import export_graph
from attar.stages.artifacts.onnx_folder import _cached_heads, write_graph
from benchmarks.families.survey import build_family

OTHERS = ["qwen3_moe", "deepseek_v3", "gpt_oss", "glm4_moe", "olmoe"]


@pytest.mark.parametrize("family", ["mixtral", *(pytest.param(family, marks=pytest.mark.slow) for family in OTHERS)])
def test_a_block_of_experts_is_one_node(family: str, tmp_path: Path) -> None:
    """Parity is in the table of families; here: no weight of experts is gathered, multiplied whole, or stored twice."""
    model = build_family(family)
    write_graph(export_graph(model), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    readers = {
        name: {node.op_type for node in graph.node if name in node.input}
        for name, size in sizes.items()
        if len(size) == 3 and size[0] == 4 and "conv" not in name
    }
    num_sparse = sum(hasattr(module, "has_gate") for module in model.modules())
    assert num_sparse and set().union(*readers.values()) == {"MoE"}
    assert len(readers) == 2 * num_sparse
    assert sum(node.op_type == "MoE" for node in graph.node) == num_sparse
    [key] = [value for value in graph.input if value.name == "past_key_values.0.key"]
    dims = [key.type.tensor_type.shape.dim[index].dim_value for index in (1, 3)]
    assert tuple(dims) == _cached_heads(model.config), "what onnxruntime-genai is told of the cache"


def test_gate_and_up_in_turn_are_what_they_were_in_halves() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(3, 8, 5, generator=draw), torch.randn(6, 5, generator=draw)
    turned = torch.from_numpy(stored_experts(weight.numpy(), is_turned=False, is_interleaved=False))
    for expert in range(3):
        expected = Gating(is_interleaved=False, limit=1.0, shift=1.0, alpha=1.7)(inputs @ weight[expert].T)
        actual = Gating(is_interleaved=True, limit=1.0, shift=1.0, alpha=1.7)(inputs @ turned[expert].T)
        torch.testing.assert_close(actual, expected)
    by_input = weight.numpy().swapaxes(1, 2)
    np.testing.assert_array_equal(stored_experts(by_input, is_turned=True, is_interleaved=True), weight.numpy())
