"""The exported graph in ONNX Runtime against torch: prefill, decode, padding on either side, windows, an empty cache."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from attar.compressors.export import runtime
from attar.compressors.export.graph import export_graph
from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.export.runtime import OnnxCache, OnnxRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.compressors.models.slots import pad_left
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.ingest.tiny_model import FAMILIES, byte_tokenizer, random_model, tiny_config

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]
WINDOWED = ("mistral", "phi3", "qwen2", "gemma2", "gemma3", "smollm3")
WINDOW = 6


def export(model: PreTrainedModel, folder: Path, **options: Any) -> OnnxRunner:
    write_graph(export_graph(model, **options), folder)
    return OnnxRunner(open_session(folder))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """A family's model and the folder of its graph, traced once."""

    @cache
    def of_family(family: str) -> tuple[PreTrainedModel, Path]:
        model, _ = random_model(
            family, num_blocks=3
        )  # two are traced where all are of a kind, the third is a repetition
        folder = tmp_path_factory.mktemp("onnx")
        write_graph(export_graph(model), folder)
        return model, folder

    return of_family


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def runners(
    request: pytest.FixtureRequest, traced: Callable[[str], tuple[PreTrainedModel, Path]]
) -> tuple[TorchRunner, OnnxRunner]:
    model, folder = traced(request.param)
    return TorchRunner(model), OnnxRunner(open_session(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_of_every_family_writes_the_same_text(
    family: str, traced: Callable[[str], tuple[PreTrainedModel, Path]], tmp_path: Path
) -> None:
    model, folder = traced(family)
    parity = measure_parity(
        listen_to(OnnxRunner(open_session(folder)), PROMPTS, tmp_path / "said", num_new_tokens=48), TorchRunner(model)
    )
    assert parity.token_agreement == 1.0
    assert parity.max_logit_difference < 1e-3  # float32, two orders of summation
    kinds = {node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node}
    assert "GroupQueryAttention" in kinds and "Softmax" not in kinds


@pytest.mark.parametrize("family", WINDOWED)
def test_sliding_windows_hide_what_torch_hides(family: str, tmp_path: Path) -> None:
    config = tiny_config(family, num_blocks=2, hidden_size=64, tokenizer=byte_tokenizer())
    options = config.to_dict() | {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1}
    if "layer_types" in options:
        options["layer_types"] = ["full_attention", "sliding_attention"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**options)).eval()
    model.set_attn_implementation("eager")
    prompts = [list(range(5, 5 + length)) for length in (WINDOW - 1, 3 * WINDOW, 2 * WINDOW)]
    onnx_runner = export(model, tmp_path)
    parity = measure_parity(
        listen_to(onnx_runner, prompts, tmp_path / "said", num_new_tokens=3 * WINDOW), TorchRunner(model)
    )
    assert parity.token_agreement == 1.0 and parity.max_logit_difference < 1e-3
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    windows = [
        attribute.i for node in graph.node for attribute in node.attribute if attribute.name == "local_window_size"
    ]
    assert WINDOW in windows and len(windows) == 2


def test_an_older_operator_set_says_the_same(tmp_path: Path) -> None:
    model, _ = random_model("llama", num_blocks=2)
    answers = listen_to(export(model, tmp_path, opset=20), PROMPTS, tmp_path / "said", num_new_tokens=16)
    assert measure_parity(answers, TorchRunner(model)).token_agreement == 1.0
    [version] = [opset.version for opset in onnx.load(tmp_path / "model.onnx").opset_import if not opset.domain]
    assert version == 20


def test_agreement_is_what_two_texts_share(runners: tuple[TorchRunner, OnnxRunner], tmp_path: Path) -> None:
    """A text that leaves the original's at its sixth token agrees in five of eight, whatever comes behind."""
    torch_runner, runner = runners
    [answer] = listen_to(runner, PROMPTS[:1], tmp_path / "said", num_new_tokens=8)
    own = decode(torch_runner, PROMPTS[:1], max_new_tokens=8, stop_ids=())[0].token_ids
    assert list(answer.token_ids) == own
    other = dataclasses.replace(answer, token_ids=[*own[:5], own[5] + 1, *own[6:]])
    assert measure_parity([other], torch_runner).token_agreement == 5 / 8


def test_a_logit_that_is_no_number_is_an_infinite_difference(
    runners: tuple[TorchRunner, OnnxRunner], tmp_path: Path
) -> None:
    torch_runner, runner = runners
    answers = listen_to(runner, PROMPTS[:2], tmp_path / "said", num_new_tokens=2)
    logits = np.load(answers[0].logits_file)
    logits[0, 0] = np.nan
    np.save(answers[0].logits_file, logits)
    assert measure_parity(answers, torch_runner).max_logit_difference == float("inf")


def test_rows_run_in_groups_say_what_they_say_together(
    runners: tuple[TorchRunner, OnnxRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runner = runners
    ids, mask = torch.arange(5, 20).view(3, 5), torch.ones(3, 5, dtype=torch.long)
    together, cache = runner.forward(ids, mask, None, last_only=True)
    monkeypatch.setattr(runtime, "MAX_UNREAD_BYTES", 1)
    apart, its_cache = runner.forward(ids, mask, None, last_only=True)
    assert apart.shape == together.shape == (3, 1, together.shape[-1])
    torch.testing.assert_close(apart, together)
    for tensor, other in zip(its_cache.tensors, cache.tensors, strict=True):
        torch.testing.assert_close(tensor, other, atol=1e-5, rtol=1e-5)


def test_left_padded_batch_equals_each_prompt_alone(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    _, runner = runners
    together = decode(runner, PROMPTS, max_new_tokens=12, stop_ids=())
    for prompt, generation in zip(PROMPTS, together, strict=True):
        assert generation.token_ids == decode(runner, [prompt], max_new_tokens=12, stop_ids=())[0].token_ids


def test_padding_in_front_stays_hidden_over_many_steps(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    """The convention of optimum and transformers.js: pad left, grow the mask by a one a step."""
    torch_runner, runner = runners
    ids, mask = pad_left(PROMPTS, torch.device("cpu"))
    caches: list[Any] = [None, None]
    for _ in range(20):
        logits = []
        for index, some_runner in enumerate((torch_runner, runner)):
            answer, caches[index] = some_runner.forward(ids, mask, caches[index], last_only=True)
            logits.append(answer)
        torch.testing.assert_close(logits[1], logits[0], atol=1e-3, rtol=0)
        ids, mask = logits[0][:, -1].argmax(-1, keepdim=True), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def test_several_tokens_behind_a_past(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    ids, mask = pad_left([list(range(3, 12)), list(range(30, 36))], torch.device("cpu"))
    more, longer = torch.arange(40, 48).reshape(2, 4), torch.cat([mask, mask.new_ones(2, 4)], dim=1)
    answers = []
    for runner in runners:
        _, cache = runner.forward(ids, mask, None, last_only=True)
        answers.append(runner.forward(more, longer, cache, last_only=False)[0])
    torch.testing.assert_close(answers[1], answers[0], atol=1e-3, rtol=0)


def test_refilled_batches_write_what_torch_writes(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    torch_runner, runner = runners
    draw = random.Random(1)
    prompts = [[draw.randrange(3, 259) for _ in range(draw.choice([1, 4, 9, 60]))] for _ in range(14)]
    free = [decode(torch_runner, [prompt], max_new_tokens=25, stop_ids=())[0].token_ids for prompt in prompts]
    options: Any = {"max_new_tokens": 25, "stop_ids": [free[0][12], free[1][5]], "num_recorded": 8}
    for sampling in (Sampling(), Sampling(temperature=0.8, top_p=0.9)):
        expected = decode(torch_runner, prompts, batch_size=14, sampling=sampling, **options)
        for batch_size in (1, 3):
            written = decode(runner, prompts, batch_size=batch_size, sampling=sampling, **options)
            assert [answer.token_ids for answer in written] == [answer.token_ids for answer in expected]
            for ours, reference in zip(written, expected, strict=True):
                torch.testing.assert_close(ours.top_logprobs, reference.top_logprobs, atol=1e-3, rtol=0)


def test_the_cache_is_written_in_place(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    runner = runners[1]
    cache = OnnxCache(runner, 2, 16)
    addresses = [tensor.data_ptr() for tensor in cache.tensors]
    ids = torch.full((2, 3), 7)
    _, cache = runner.forward(ids, torch.ones_like(ids), cache, last_only=True)
    before = [tensor.clone() for tensor in cache.tensors]
    _, cache = runner.forward(ids[:, :1], torch.ones(2, 4, dtype=torch.long), cache, last_only=True)
    for address, old, new in zip(addresses, before, cache.tensors, strict=True):
        assert new.data_ptr() == address and new.shape[2] == 16
        assert torch.equal(new[:, :, :3], old[:, :, :3])
        assert new[:, :, 3].abs().min() > 0 and not new[:, :, 4:].any()


def test_a_wrong_graph_is_noticed(runners: tuple[TorchRunner, OnnxRunner], tmp_path: Path) -> None:
    torch_runner, runner = runners
    with torch.no_grad():
        torch_runner.model.get_output_embeddings().weight.mul_(-1.0)
    try:
        answers = listen_to(runner, PROMPTS[:1], tmp_path / "said", num_new_tokens=8)
        assert measure_parity(answers, torch_runner).token_agreement < 1.0
    finally:
        with torch.no_grad():
            torch_runner.model.get_output_embeddings().weight.mul_(-1.0)


def test_another_provider_than_asked_for_is_refused(runners: tuple[TorchRunner, OnnxRunner], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs on CPUExecutionProvider, not on CUDAExecutionProvider"):
        OnnxRunner(runners[1].session, provider="CUDAExecutionProvider")
    with pytest.raises(
        ValueError, match=r"provider 'NoExecutionProvider' is not in this onnxruntime; available: .*CPU"
    ):
        open_session(tmp_path, "NoExecutionProvider")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AutoConfig.for_model("bert", num_hidden_layers=1), "BertLMHeadModel is an encoder, or has one"),
        (AutoConfig.for_model("mamba", num_hidden_layers=1, hidden_size=32), "takes no position_ids or no cache"),
        (AutoConfig.for_model("bloom", n_layer=1, hidden_size=32, n_head=2), "BloomForCausalLM .*no cached graph"),
    ],
    ids=["encoder", "state space", "alibi"],
)
def test_what_has_no_cached_graph_is_refused_by_name(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_graph(AutoModelForCausalLM.from_config(config))


def test_an_operator_that_has_no_translation_is_named(tmp_path: Path) -> None:
    """A model of the user's whose norm calls what the exporter does not know."""

    class Bessel(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j1(hidden_states)

    model, _ = random_model("llama", num_blocks=1)
    model.model.norm = Bessel()
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no ONNX graph: .*bessel_j1") as refused:
        export_graph(model)
    assert "\n" not in str(refused.value)


def test_weights_lie_outside_and_tied_ones_once(tmp_path: Path) -> None:
    model, _ = random_model("gemma2", num_blocks=2)
    assert model.config.tie_word_embeddings
    write_graph(export_graph(model), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx_data"]
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    tables = 2 * 4 * 1024 * 8 * 2  # cos and sin of 1,024 positions by 8, for the model's rotary embedding
    assert (tmp_path / "model.onnx_data").stat().st_size < weights + tables + 40 * 4096  # a page's rest a tensor
    assert (tmp_path / "model.onnx").stat().st_size < 60_000
    inline = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in inline if np.prod(tensor.dims) * 4 > 256)
