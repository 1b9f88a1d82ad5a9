"""Graphs of ONNX' own operators alone say what torch says: padded, refilled, in pieces, with a window."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

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
WINDOW = 6
Traced = tuple[TorchRunner, OnnxRunner, Path]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A Mistral whose blocks see six tokens. Two blocks are traced, the third is a repetition."""
    config = tiny_config("mistral", num_blocks=3, hidden_size=64, tokenizer=byte_tokenizer()).to_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | {"sliding_window": WINDOW})).eval()
    model.set_attn_implementation("eager")
    folder = tmp_path_factory.mktemp("standard")
    write_graph(export_graph(model, 23, "standard"), folder)
    return TorchRunner(model), OnnxRunner(open_session(folder)), folder


def test_no_node_is_of_onnxruntimes_own(windowed: Traced) -> None:
    stored = onnx.load(windowed[2] / "model.onnx", load_external_data=False)
    assert {node.domain for node in stored.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in stored.opset_import] == [("", 23)]
    kinds = [node.op_type for node in stored.graph.node]
    assert kinds.count("Softmax") == 3 and kinds.count("RMSNormalization") == 7
    assert kinds.count("CumSum") == 1, "what all blocks share is there once"


def test_a_window_hides_what_torch_hides(windowed: Traced, tmp_path: Path) -> None:
    """Alone, padded in front, and over a cache that is longer than the window."""
    torch_runner, runner, _ = windowed
    prompts = [list(range(5, 5 + length)) for length in (WINDOW - 1, 3 * WINDOW, 2 * WINDOW)]
    answers = listen_to(runner, prompts, tmp_path, num_new_tokens=2 * WINDOW)
    parity = measure_parity(answers, torch_runner)
    assert parity.token_agreement == 1.0 and parity.max_logit_difference < 1e-3  # float32, two orders of summation
    torch_runner.model.config.sliding_window = (
        10 * WINDOW
    )  # the other side: with more in sight torch says something else
    try:
        assert measure_parity(answers, torch_runner).max_logit_difference > 1e-2
    finally:
        torch_runner.model.config.sliding_window = WINDOW


def test_refilled_batches_write_what_torch_writes(windowed: Traced) -> None:
    """Rows end at columns of their own, which a cache that only appends does not know."""
    torch_runner, runner, _ = windowed
    draw = random.Random(1)
    prompts = [[draw.randrange(3, 259) for _ in range(draw.choice([1, 4, 9, 30]))] for _ in range(8)]
    free = [decode(torch_runner, [prompt], max_new_tokens=12, stop_ids=())[0].token_ids for prompt in prompts]
    options: Any = {"max_new_tokens": 12, "stop_ids": [free[0][6], free[1][2]]}
    expected = decode(torch_runner, prompts, batch_size=8, **options)
    for batch_size in (1, 3):
        written = decode(runner, prompts, batch_size=batch_size, **options)
        assert [answer.token_ids for answer in written] == [answer.token_ids for answer in expected]


def test_a_text_in_two_pieces_and_padding_in_front(windowed: Traced) -> None:
    ids, mask = pad_left([list(range(3, 12)), list(range(30, 36))], torch.device("cpu"))
    more, longer = torch.arange(40, 48).reshape(2, 4), torch.cat([mask, mask.new_ones(2, 4)], dim=1)
    whole = torch.cat([ids, more], dim=1)
    expected, _ = windowed[0].forward(whole, longer, None, last_only=False)
    _, cache = windowed[1].forward(ids, mask, None, last_only=True)
    rest, _ = windowed[1].forward(more, longer, cache, last_only=False)
    torch.testing.assert_close(rest, expected[:, -4:], atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_an_older_operator_set(family: str, tmp_path: Path) -> None:
    model, _ = random_model(family, num_blocks=3)
    write_graph(export_graph(model, 20, "standard"), tmp_path)
    answers = listen_to(OnnxRunner(open_session(tmp_path)), PROMPTS, tmp_path / "said", num_new_tokens=24)
    parity = measure_parity(answers, TorchRunner(model))
    assert parity.token_agreement == 1.0 and parity.max_logit_difference < 1e-3
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node} == {""}
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


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
