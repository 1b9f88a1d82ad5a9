"""A graph of which two blocks were traced and the rest repeated, against the graph of all blocks traced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import attar.compressors.export.graph as exporting
from attar.compressors.export.block_kinds import block_kinds, representatives
from attar.compressors.export.graph import export_graph
from attar.compressors.export.names import cache_names, key_values
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.blocks import decoder_blocks, only_blocks
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.ingest.tiny_model import random_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(graph: ir.Model, folder: Path) -> torch.Tensor:
    folder.mkdir()
    write_graph(graph, folder)
    output, _ = OnnxRunner(open_session(folder)).forward(IDS, torch.ones_like(IDS), None, last_only=False)
    return output


def counted_traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Watch how many blocks each trace has."""
    seen: list[int] = []
    trace = exporting._Tracer.trace
    monkeypatch.setattr(
        exporting._Tracer,
        "trace",
        lambda tracer, parts: (seen.append(len(decoder_blocks(tracer.model))), trace(tracer, parts))[1],
    )
    return seen


@pytest.mark.parametrize(("family", "num_traced"), [("llama", 2), ("gemma2", 4), ("smollm3", 3)])
def test_repeated_blocks_are_the_graph_of_all_traced(
    family: str, num_traced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = random_model(family, num_blocks=5)
    traces = counted_traces(monkeypatch)
    few = export_graph(model)
    assert traces == [num_traced]
    monkeypatch.setattr(exporting, "representatives", lambda kinds: list(range(len(kinds))))
    every = export_graph(model)
    assert traces == [num_traced, 5]
    assert Counter(node.op_type for node in few.graph) == Counter(node.op_type for node in every.graph)
    assert set(few.graph.initializers) == set(every.graph.initializers)
    for ports in ("inputs", "outputs"):
        first, other = ([str(value.name) for value in getattr(model.graph, ports)] for model in (few, every))
        assert first == other
    assert [str(value.name) for value in few.graph.outputs[1:]] == cache_names(key_values(5, 2, 16), "present")
    torch.testing.assert_close(
        logits(few, tmp_path / "few"), logits(every, tmp_path / "every"), atol=0, rtol=0
    )  # the same operations on the same numbers


def test_kinds_are_told_apart_by_all_but_the_numbers_of_the_weights() -> None:
    model, _ = random_model("llama", num_blocks=6)
    blocks = decoder_blocks(model)
    assert block_kinds(model) == [0] * 6
    blocks[2].input_layernorm.variance_epsilon = 1e-3
    blocks[3].mlp.up_proj = nn.Linear(*reversed(blocks[3].mlp.up_proj.weight.shape))  # with a bias
    blocks[5].mlp.table = torch.ones(3)
    assert block_kinds(model) == [0, 0, 2, 3, 0, 5]
    assert representatives([0, 0, 2, 3, 0, 5]) == [0, 1, 2, 3, 5]
    assert representatives([0, 1, 0, 1, 0, 1]) == [0, 1, 2, 3]


class Shifted(nn.Module):
    """Adds a number of its own, kept where no list of settings shows it."""

    def __init__(self, inner: nn.Module, number: float) -> None:
        super().__init__()
        self.inner, self._number = inner, number

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden_states) + self._number


def shifted(model: PreTrainedModel) -> PreTrainedModel:
    for index, block in enumerate(decoder_blocks(model)):
        block.mlp = Shifted(block.mlp, 0.1 * index)
    return model


def test_blocks_that_only_look_alike_are_all_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shifted(random_model("llama", num_blocks=4)[0])
    assert block_kinds(model) == [0] * 4
    traces = counted_traces(monkeypatch)
    output = logits(export_graph(model), tmp_path / "graph")
    assert traces == [2, 4]
    with torch.inference_mode():
        torch.testing.assert_close(output, model(IDS).logits, atol=1e-4, rtol=0)


def test_a_model_is_whole_again_after_some_blocks_stood_alone() -> None:
    model, _ = random_model("smollm3", num_blocks=4)
    with torch.inference_mode():
        before: Any = model(IDS).logits
        settings = dict(vars(model.config))
        with only_blocks(model, [0, 3]):
            assert len(decoder_blocks(model)) == model.config.num_hidden_layers == len(model.config.layer_types) == 2
            assert [block.self_attn.layer_idx for block in decoder_blocks(model)] == [0, 1]
        assert vars(model.config) == settings and len(decoder_blocks(model)) == 4
        assert [block.self_attn.layer_idx for block in decoder_blocks(model)] == [0, 1, 2, 3]
        torch.testing.assert_close(model(IDS).logits, before, atol=0, rtol=0)
