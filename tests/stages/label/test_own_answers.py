"""A model answers by itself: such answers are likelier to it, and anchored ones are the same from graph and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.anchored import AnchorBudget, AnchoredRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.label.answer import AnswerInputs, answer
from attar.stages.label.answer_config import AnswerConfig
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from tests.stages.label.own_answers import QUICK, dataset, rows_of, run, sums


def test_own_answers_are_likelier_than_given_ones(
    model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    """What self-distilled data is: the model's own answers have a lower loss under it than those that people wrote."""
    config = AnswerConfig(max_new_tokens=20, keep="all", precision="float32")
    own = rows_of(run(answer, config, AnswerInputs(model=model, data=questions), tmp_path))
    runner, tokenizer = TorchRunner(load_model(model.path, "float32")), load_tokenizer(model.path)
    losses = {"own": [], "given": []}
    for row in own:
        prompt = chat_prompt(tokenizer, row.question)
        for name, ids in (("own", row.answer_ids), ("given", answer_tokens(tokenizer, row.reference))):
            losses[name].append(mean_loss(runner, prompt, ids))
    assert sum(losses["own"]) / len(own) < sum(losses["given"]) / len(own) - 0.5


def mean_loss(runner: TorchRunner, prompt: list[int], answer_ids: Sequence[int]) -> float:
    ids = torch.tensor([[*prompt, *answer_ids]])
    logprobs = runner.forward(ids, torch.ones_like(ids), None, last_only=False)[0][0].log_softmax(-1)
    answer_logprobs = logprobs[len(prompt) - 1 : -1]
    return -float(answer_logprobs.gather(-1, torch.tensor(list(answer_ids))[:, None]).mean())


def test_learning_ones_own_answers_forgets_less(
    model: ModelArtifact,
    questions: DatasetArtifact,
    tmp_path: Path,
    kl_between: Callable[[ModelArtifact, ModelArtifact, list[int]], float],
) -> None:
    """As many steps on the model's own answers as on given ones: it stays nearer to what it was on text of another kind."""
    config = AnswerConfig(max_new_tokens=20, keep="all", precision="float32")
    own = run(answer, config, AnswerInputs(model=model, data=questions), tmp_path, "own")
    drifts = {}
    for name, rows in (("own", rows_of(own)), ("given", rows_of(questions))):
        # nothing held out: what the last step left is kept, not what was best
        data = dataset(tmp_path / f"rows-{name}", [row.with_changes(split="train") for row in rows])
        training = QUICK.with_changes(adapt={"rank": 4}, schedule={"learning_rate": 5e-3, "max_steps": 12})
        adapter = run(finetune, training, FinetuneInputs(model=model, data=(data,)), tmp_path, f"adapter-{name}")
        student = run(merge, MergeConfig(), MergeInputs(base=model, students=(adapter,)), tmp_path, f"student-{name}")
        drifts[name] = kl_between(model, student, list(b"Another kind of text altogether, about the sea."))
    assert 0 < drifts["own"] < 0.8 * drifts["given"]


def test_anchored_answers_are_the_same_from_graphs_as_from_torch(tmp_path: Path) -> None:
    """Two models and their exported graphs, torch beside torch, graph beside graph, and one of each."""
    from attar.stages.export.config import ExportConfig, ExportInputs
    from attar.stages.export.stage import export

    runners: dict[str, list[Any]] = {"torch": [], "onnx": []}
    store = Store(tmp_path / "home")
    rows = dataset(tmp_path / "rows", sums(4))
    for seed in (0, 1):
        source = IngestModelConfig(source=f"random:llama?num_blocks=1&hidden_size=32&seed={seed}")
        model = ingest_model.execute(source, NoInputs(), store).artifact
        graph = run(export, ExportConfig(num_prompts=1), ExportInputs(model=model, data=rows), tmp_path, f"graph{seed}")
        runners["torch"].append(TorchRunner(load_model(model.path, "float32")))
        runners["onnx"].append(OnnxRunner(open_session(graph.path)))
    prompts = [[5, 9, 17, 40], [8, 200], [3, 4, 5, 6, 7, 8]]
    written = []
    for safe, risky in (("torch", "torch"), ("onnx", "onnx"), ("torch", "onnx")):
        pair = AnchoredRunner(safe=runners[safe][0], risky=runners[risky][1], budget=AnchorBudget(nats_per_token=0.3))
        written.append(
            decode(
                pair,
                prompts,
                max_new_tokens=8,
                stop_ids=[],
                batch_size=2,
                sampling=Sampling(temperature=1.0),
                is_scored=True,
            )
        )
    for other in written[1:]:
        assert [answer.token_ids for answer in other] == [answer.token_ids for answer in written[0]]
        for actual, reference in zip(other, written[0], strict=True):
            assert actual.token_logprobs == pytest.approx(reference.token_logprobs, abs=2e-3)
