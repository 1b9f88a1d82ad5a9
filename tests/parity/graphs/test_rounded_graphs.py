"""Real families' graphs in 16 bits and with a cache in 8: over the cache as in one pass, near to torch, padded and refilled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from attar.compressors.export.graph import export_graph
from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.closeness import closeness
from attar.compressors.models.runner import CausalRunner, TorchRunner
from attar.compressors.quantize.cache_codes import cache_in_codes, largest_states
from attar.compressors.quantize.halves import rounded_results, to_halves
from attar.stages.artifacts.onnx_folder import read_graph, read_structure, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.ingest.tiny_model import random_model
from benchmarks.families.survey import build_family

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]
SAMPLES = [list(range(3, 40)), list(range(60, 100))]
NUM_NEW = 24


def written(folder: Path, graph: ir.Model) -> OnnxRunner:
    folder.mkdir()
    write_graph(graph, folder)
    return OnnxRunner(open_session(folder))


def rounding(folder: Path) -> OnnxRunner:
    """The graph that lies in the folder, each result rounded."""
    graph = read_structure(folder)
    rounded_results(graph)
    return OnnxRunner(open_session(folder, graph=ir.to_proto(graph).SerializeToString()))


def kl(runner: CausalRunner, model: Any) -> float:
    pairs = [(prompt, list(range(30, 50))) for prompt in PROMPTS]
    sums = closeness(runner, TorchRunner(model), pairs, batch_size=1)
    return sum(text.kl_nats for text in sums) / sum(text.num_tokens for text in sums)


@pytest.fixture(scope="module", params=["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def float_graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model, uneven as trained ones are, and the folder of its float32 graph."""
    model, _ = random_model(request.param, num_blocks=3, hidden_size=32)
    folder = tmp_path_factory.mktemp(request.param)
    write_graph(export_graph(model), folder)
    return model, folder


def test_a_graph_in_float16_is_the_model_to_its_digits(float_graph: tuple[Any, Path], tmp_path: Path) -> None:
    """As the CPU runs it: cast up, nothing rounded between nodes. And rounded as a GPU does."""
    model, folder = float_graph
    graph = read_graph(folder)
    to_halves(graph, "float16")
    runner = written(tmp_path / "half", graph)
    assert set(runner.dtypes) == {torch.float16}
    over_cache = measure_parity(listen_to(runner, PROMPTS, tmp_path / "said", num_new_tokens=NUM_NEW), runner)
    assert over_cache.token_agreement == 1.0 and over_cache.max_logit_difference < 0.02
    assert kl(runner, model) < 1e-5 and 0 < kl(rounding(tmp_path / "half"), model) < 1e-4


def test_a_graph_in_bfloat16_is_the_model_to_its_digits(float_graph: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = float_graph
    graph = read_graph(folder)
    to_halves(graph, "bfloat16")
    with pytest.raises(ValueError, match=r"it has no \w+ in the graph's types; a graph in bfloat16 is for GPUs"):
        written(tmp_path / "half", graph)
    runner = rounding(tmp_path / "half")
    assert set(runner.dtypes) == {torch.bfloat16}
    over_cache = measure_parity(listen_to(runner, PROMPTS, tmp_path / "said", num_new_tokens=NUM_NEW), runner)
    assert over_cache.max_logit_difference < 0.2  # two orders of sums, each result rounded to 8 bits
    assert 0 < kl(runner, model) < 2e-3


def test_a_cache_in_8_bits_is_read_and_written_in_place(float_graph: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = float_graph
    float_runner = OnnxRunner(open_session(folder))
    names = [past for past, _ in float_runner.ports]
    largest = largest_states(float_runner, names, SAMPLES)
    graph = read_graph(folder)
    cache_in_codes(graph, largest)
    runner = written(tmp_path / "coded", graph)
    assert set(runner.dtypes) == {torch.int8} and 4 * runner.cache_bytes_per_token == float_runner.cache_bytes_per_token
    parity = measure_parity(listen_to(runner, PROMPTS, tmp_path / "said", num_new_tokens=NUM_NEW), runner)
    assert (
        parity.token_agreement == 1.0 and parity.max_logit_difference < 0.05
    )  # a sum of another order ends at another code
    assert 0 < kl(runner, model) < 5e-3
    ids = torch.tensor(SAMPLES[:1])
    _, coded = runner.forward(ids, torch.ones_like(ids), None, last_only=True)
    _, floats = float_runner.forward(ids, torch.ones_like(ids), None, last_only=True)
    first = names[0]
    scale = 1.1 * largest[first] / 127
    # half a step, and what float32 makes of a number in the middle between two codes
    apart = (coded.tensors[0][0].float() * scale[:, None] - floats.tensors[0][0]).abs() / scale[:, None]
    assert apart.max() < 0.501


def test_both_at_once(float_graph: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = float_graph
    float_runner = OnnxRunner(open_session(folder))
    graph = read_graph(folder)
    cache_in_codes(graph, largest_states(float_runner, [past for past, _ in float_runner.ports], SAMPLES))
    to_halves(graph, "float16")
    runner = written(tmp_path / "both", graph)
    assert set(runner.dtypes) == {torch.int8}
    assert kl(runner, model) < 5e-3 and kl(rounding(tmp_path / "both"), model) < 5e-3


@pytest.mark.slow
def test_standard_operators_in_float16_over_their_growing_cache(tmp_path: Path) -> None:
    model, _ = random_model("llama", num_blocks=3, hidden_size=32)
    graph = export_graph(model, 20, "standard")
    to_halves(graph, "float16")
    kinds = {node.op_type: node.outputs[0].dtype for node in graph.graph}
    assert kinds["Softmax"] == kinds["Cos"] == kinds["Pow"] == ir.DataType.FLOAT
    assert kinds["MatMul"] == ir.DataType.FLOAT16
    runner = written(tmp_path / "half", graph)
    parity = measure_parity(listen_to(runner, PROMPTS, tmp_path / "said", num_new_tokens=NUM_NEW), runner)
    assert parity.token_agreement == 1.0 and kl(rounding(tmp_path / "half"), model) < 1e-4


@pytest.mark.slow
def test_states_stay_float32_and_have_no_8_bits(tmp_path: Path) -> None:
    model = build_family("lfm2")
    graph = export_graph(model)
    with pytest.raises(
        ValueError, match=r"cache.kind is 'int8', but the model keeps states .*conv_state.*; accepted: float"
    ):
        cache_in_codes(graph, {})
    to_halves(graph, "float16")
    runner = written(tmp_path / "half", graph)
    types = {past.rpartition(".")[2]: dtype for (past, _), dtype in zip(runner.ports, runner.dtypes, strict=True)}
    assert types == {"conv_state": torch.float32, "key": torch.float16, "value": torch.float16}
    assert kl(rounding(tmp_path / "half"), model) < 1e-3
