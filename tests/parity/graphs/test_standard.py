"""Graphs of ONNX' own operators alone say what torch says: padded, refilled, in pieces, with windows and caps."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from attar.compressors.export.graph import export_graph
from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import pad_left
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.ingest.tiny_model import FAMILIES, byte_tokenizer, random_model, tiny_config
from benchmarks.families.survey import build_family

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]
# Llama has all that most have; in Gemma 2 scores are capped and every second block has a window.
QUICK = ("llama", "gemma2")
WINDOW = 6


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """A family's model and the folder of its graph, traced once. Two blocks of a kind are traced, the third is a repetition."""

    @cache
    def of_family(family: str) -> tuple[PreTrainedModel, Path]:
        model, _ = random_model(family, num_blocks=3)
        folder = tmp_path_factory.mktemp("onnx")
        write_graph(export_graph(model, 20, "standard"), folder)
        return model, folder

    return of_family


@pytest.fixture(scope="module")
def runners(traced: Callable[[str], tuple[PreTrainedModel, Path]]) -> tuple[TorchRunner, OnnxRunner]:
    model, folder = traced("llama")
    return TorchRunner(model), OnnxRunner(open_session(folder))


@pytest.mark.parametrize(
    "family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in QUICK)]
)
def test_no_node_is_of_onnxruntimes_own_and_the_text_is_the_same(
    family: str, traced: Callable[[str], tuple[PreTrainedModel, Path]], tmp_path: Path
) -> None:
    model, folder = traced(family)
    answers = listen_to(OnnxRunner(open_session(folder)), PROMPTS, tmp_path, num_new_tokens=24)
    parity = measure_parity(answers, TorchRunner(model))
    assert parity.token_agreement == 1.0 and parity.max_logit_difference < 1e-3  # float32, two orders of summation
    stored = onnx.load(folder / "model.onnx", load_external_data=False)
    assert {node.domain for node in stored.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in stored.opset_import] == [("", 20)]
    onnx.checker.check_model(str(folder / "model.onnx"))


def test_norms_are_a_node_each_in_the_newer_operator_set(tmp_path: Path) -> None:
    model, _ = random_model("llama", num_blocks=1)
    write_graph(export_graph(model, 23, "standard"), tmp_path)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node]
    assert kinds.count("RMSNormalization") == 3 and "Softmax" in kinds
    parity = measure_parity(
        listen_to(OnnxRunner(open_session(tmp_path)), PROMPTS, tmp_path / "said", num_new_tokens=8), TorchRunner(model)
    )
    assert parity.token_agreement == 1.0


def test_a_window_hides_what_torch_hides_behind_padding_too(tmp_path: Path) -> None:
    config = tiny_config("mistral", num_blocks=1, hidden_size=64, tokenizer=byte_tokenizer())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config.to_dict() | {"sliding_window": WINDOW}), attn_implementation="eager"
    ).eval()
    write_graph(export_graph(model, 20, "standard"), tmp_path)
    prompts = [list(range(5, 5 + length)) for length in (WINDOW - 1, 3 * WINDOW, 2 * WINDOW)]
    answers = listen_to(OnnxRunner(open_session(tmp_path)), prompts, tmp_path / "said", num_new_tokens=2 * WINDOW)
    parity = measure_parity(answers, TorchRunner(model))
    assert parity.token_agreement == 1.0 and parity.max_logit_difference < 1e-3
    model.config.sliding_window = None  # the other side: without a window torch says something else
    assert measure_parity(answers, TorchRunner(model)).max_logit_difference > 1e-2


def test_refilled_batches_write_what_torch_writes(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    """Rows end at columns of their own, which a cache that only appends does not know."""
    torch_runner, runner = runners
    draw = random.Random(1)
    prompts = [[draw.randrange(3, 259) for _ in range(draw.choice([1, 4, 9, 30]))] for _ in range(8)]
    free = [decode(torch_runner, [prompt], max_new_tokens=12, stop_ids=())[0].token_ids for prompt in prompts]
    options: Any = {"max_new_tokens": 12, "stop_ids": [free[0][6], free[1][2]]}
    expected = decode(torch_runner, prompts, batch_size=8, **options)
    for batch_size in (1, 3):
        written = decode(runner, prompts, batch_size=batch_size, **options)
        assert [answer.token_ids for answer in written] == [answer.token_ids for answer in expected]


def test_a_text_in_two_pieces_and_padding_in_front(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    ids, mask = pad_left([list(range(3, 12)), list(range(30, 36))], torch.device("cpu"))
    more, longer = torch.arange(40, 48).reshape(2, 4), torch.cat([mask, mask.new_ones(2, 4)], dim=1)
    answers = []
    for runner in runners:
        _, cache = runner.forward(ids, mask, None, last_only=True)
        answers.append(runner.forward(more, longer, cache, last_only=False)[0])
    torch.testing.assert_close(answers[1], answers[0], atol=1e-3, rtol=0)


def test_what_needs_onnxruntimes_own_nodes_is_refused_by_name() -> None:
    experts, _ = random_model("mixtral", num_blocks=1)
    with pytest.raises(ValueError, match=r"whose node is com\.microsoft\.MoE; accepted: operators fused$"):
        export_graph(experts, 20, "standard")
    with pytest.raises(ValueError, match=r"whose nodes are com\.microsoft\.CausalConvWithState and LinearAttention"):
        export_graph(build_family("lfm2"), 20, "standard")
    config = tiny_config("llama", num_blocks=1, hidden_size=64, tokenizer=byte_tokenizer()).to_dict()
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    stretched = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    with pytest.raises(ValueError, match="type 'dynamic' changes with the text's length"):
        export_graph(stretched, 20, "standard")
