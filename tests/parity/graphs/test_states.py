"""Graphs with states of fixed size beside keys and values: prompts padded, refilled and decoded together say what each says alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from attar.compressors.export.graph import export_graph
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.decode import decode
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from benchmarks.families.survey import build_family

NUM_NEW = 12


OTHERS = ["qwen3_next", "falcon_h1"]


@pytest.fixture(scope="module", params=["lfm2", *(pytest.param(family, marks=pytest.mark.slow) for family in OTHERS)])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, OnnxRunner, Path]:
    model, folder = build_family(request.param), tmp_path_factory.mktemp(request.param)
    write_graph(export_graph(model), folder)
    return model, OnnxRunner(open_session(folder)), folder


def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(3, 64) for _ in range(length)] for length in (1, 7, 3, 1, 12, 7, 2, 1, 5)]


def test_rows_that_are_refilled_write_what_torch_writes(graph: tuple[Any, OnnxRunner, Path]) -> None:
    model, runner, _ = graph
    alone = [
        model.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :].tolist()
        for prompt in prompts()
    ]
    for batch_size in (1, 3):
        written = decode(runner, prompts(), max_new_tokens=NUM_NEW, stop_ids=(), batch_size=batch_size)
        assert [generation.token_ids for generation in written] == alone


def test_padding_before_a_prompt_leaves_no_trace_in_its_state(graph: tuple[Any, OnnxRunner, Path]) -> None:
    _, runner, _ = graph
    ids = torch.tensor([[0, 0, 0, 9, 10, 11], [3, 4, 5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    _, together = runner.forward(ids, mask, None, last_only=True)
    _, alone = runner.forward(ids[:1, 3:], mask[:1, 3:], None, last_only=True)
    for size, padded, plain in zip(runner.sizes, together.tensors, alone.tensors, strict=True):
        if 0 not in size:
            torch.testing.assert_close(padded[:1], plain, atol=1e-4, rtol=1e-4)


def test_a_text_read_in_two_pieces_has_the_logits_of_one(graph: tuple[Any, OnnxRunner, Path]) -> None:
    _, runner, _ = graph
    ids, mask = torch.arange(4, 20)[None], torch.ones(1, 16, dtype=torch.long)
    whole, _ = runner.forward(ids, mask, None, last_only=False)
    _, cache = runner.forward(ids[:, :9], mask[:, :9], None, last_only=True)
    rest, _ = runner.forward(ids[:, 9:], mask, cache, last_only=False)
    torch.testing.assert_close(rest, whole[:, 9:], atol=1e-3, rtol=1e-3)


def test_a_state_is_one_node_and_keeps_its_size(graph: tuple[Any, OnnxRunner, Path]) -> None:
    _, runner, folder = graph
    kinds = [node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node]
    assert runner.has_states and "CausalConvWithState" in kinds and "Conv" not in kinds and "Loop" not in kinds
    assert ("LinearAttention" in kinds) == any("recurrent" in name for name, _ in runner.ports)
