"""Text behind vectors: the runner beside transformers' own way with input embeddings, and the exported graph beside torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.export.graph import export_graph
from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import PrefixedRunner, TorchRunner
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.ingest.tiny_model import random_model

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20]]
NUM_NEW = 8


def model_of(family: str) -> Any:
    model, _ = random_model(family, num_blocks=3)
    return model


def vectors_for(model: Any, count: int = 5) -> torch.Tensor:
    return torch.randn(count, model.config.hidden_size, generator=torch.Generator().manual_seed(3))


def behind(runner: Any, vectors: torch.Tensor) -> PrefixedRunner:
    return PrefixedRunner(runner, runner.take_vectors(vectors))


@torch.inference_mode()
def by_embeddings(model: Any, vectors: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The logits behind each token of a text by `inputs_embeds`, as transformers and PEFT put vectors before a prompt."""
    embedded = torch.cat([vectors, model.get_input_embeddings()(torch.tensor(ids))])[None]
    return model(inputs_embeds=embedded, use_cache=False).logits[0, len(vectors) :]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_texts_and_scores_are_those_of_transformers_with_embeddings_before_the_prompt(family: str) -> None:
    model = model_of(family)
    vectors = vectors_for(model)
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(NUM_NEW):
            ids.append(int(by_embeddings(model, vectors, ids)[-1].argmax()))
        expected.append(ids[len(prompt) :])
    likelihoods = [
        float(
            by_embeddings(model, vectors, [*prompt, *text])[len(prompt) - 1 : -1]
            .log_softmax(-1)[range(NUM_NEW), text]
            .sum()
        )
        for prompt, text in zip(PROMPTS, expected, strict=True)
    ]
    runner = behind(TorchRunner(model), vectors)
    # fewer rows than prompts: slots are filled again, behind the vectors too
    written = decode(runner, PROMPTS, max_new_tokens=NUM_NEW, stop_ids=(), batch_size=2)
    assert [text.token_ids for text in written] == expected
    scored = continuation_likelihoods(runner, list(zip(PROMPTS, expected, strict=True)), batch_size=3)
    assert [score.logprob_nats for score in scored] == pytest.approx(likelihoods, abs=1e-4)


def test_a_graph_reads_vectors_as_torch_does_and_texts_without_any_as_before(tmp_path: Path) -> None:
    model = model_of("llama")
    write_graph(export_graph(model, takes_prefix=True), tmp_path)
    plain = measure_parity(
        listen_to(OnnxRunner(open_session(tmp_path)), PROMPTS, tmp_path / "plain", num_new_tokens=24),
        TorchRunner(model),
    )
    assert plain.max_logit_difference < 1e-4 and plain.token_agreement == 1.0
    vectors = vectors_for(model)
    answers = listen_to(
        behind(OnnxRunner(open_session(tmp_path)), vectors), PROMPTS, tmp_path / "behind", num_new_tokens=24
    )
    parity = measure_parity(answers, behind(TorchRunner(model), vectors))
    assert parity.max_logit_difference < 1e-4 and parity.token_agreement == 1.0
    # any number of them: the graph's input has no fixed length
    few = behind(OnnxRunner(open_session(tmp_path)), vectors[:2])
    assert few.prefix_ids == range(model.config.vocab_size, model.config.vocab_size + 2)
    logits, _ = few.forward(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long), None, last_only=False)
    reference = by_embeddings(model_of("llama"), vectors[:2], [5, 6])
    torch.testing.assert_close(logits[0], reference, atol=1e-4, rtol=0.0)
