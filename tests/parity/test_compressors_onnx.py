"""The exported graph in ONNX Runtime against torch: prefill, decode, left padding, an empty cache."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from compressors.export.graph import export_program
from compressors.export.parity import measure_parity
from compressors.export.runtime import OnnxRunner
from compressors.measure.decode import decode
from compressors.measure.runner import TorchRunner
from stages.onnx_session import open_session
from stages.tiny_model import random_model

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def runners(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchRunner, OnnxRunner]:
    model, _ = random_model(request.param)
    folder = tmp_path_factory.mktemp("onnx")
    export_program(model).save(folder / "model.onnx", external_data=True)
    return TorchRunner(model), OnnxRunner(open_session(folder))


def test_graph_writes_the_same_text(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    parity = measure_parity(*runners, PROMPTS, num_new_tokens=64)
    assert parity.token_agreement == 1.0
    assert parity.max_logit_difference < 1e-3  # float32, two orders of summation


def test_left_padded_batch_equals_each_prompt_alone(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    _, onnx = runners
    together = decode(onnx, PROMPTS, max_new_tokens=12, stop_ids=())
    for prompt, generation in zip(PROMPTS, together, strict=True):
        assert generation.token_ids == decode(onnx, [prompt], max_new_tokens=12, stop_ids=())[0].token_ids


def test_refilled_batches_write_what_torch_writes(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    torch_runner, onnx = runners
    draw = random.Random(1)
    prompts = [[draw.randrange(3, 259) for _ in range(draw.choice([1, 4, 9, 60]))] for _ in range(14)]
    free = [decode(torch_runner, [prompt], max_new_tokens=25, stop_ids=())[0].token_ids for prompt in prompts]
    options: Any = {"max_new_tokens": 25, "stop_ids": [free[0][12], free[1][5]], "num_recorded": 8}
    expected = decode(torch_runner, prompts, batch_size=14, **options)
    for batch_size in (1, 3):
        written = decode(onnx, prompts, batch_size=batch_size, **options)
        assert [one.token_ids for one in written] == [one.token_ids for one in expected]
        for ours, theirs in zip(written, expected, strict=True):
            torch.testing.assert_close(ours.top_logprobs, theirs.top_logprobs, atol=1e-3, rtol=0)


def test_a_wrong_graph_is_noticed(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    torch_runner, onnx = runners
    with torch.no_grad():
        torch_runner.model.get_output_embeddings().weight.mul_(-1.0)
    try:
        assert measure_parity(torch_runner, onnx, PROMPTS[:1], num_new_tokens=8).token_agreement < 1.0
    finally:
        with torch.no_grad():
            torch_runner.model.get_output_embeddings().weight.mul_(-1.0)


def test_another_provider_than_asked_for_is_refused(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    with pytest.raises(ValueError, match="runs on CPUExecutionProvider, not on CUDAExecutionProvider"):
        OnnxRunner(runners[1].session, provider="CUDAExecutionProvider")


def test_sliding_attention_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="only full attention is exported"):
        export_program(random_model("gemma2")[0])


def test_cache_shapes_are_dynamic(runners: tuple[TorchRunner, OnnxRunner]) -> None:
    onnx = runners[1]
    for num_rows, num_tokens in ((1, 1), (3, 5)):
        ids = torch.full((num_rows, num_tokens), 7)
        logits, cache = onnx.forward(ids, torch.ones_like(ids), None, last_only=False)
        assert logits.shape[:2] == (num_rows, num_tokens)
        assert {tensor.shape[2] for tensor in cache} == {num_tokens}
        assert all(isinstance(tensor, np.ndarray) for tensor in cache)
