"""Our lm-eval adapter against lm-eval's own Hugging Face model, on the same rows."""

from __future__ import annotations

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.evaluate.harness import RunnerLM, run_tasks, task_config

ROWS = [
    Row(
        id=f"{i}",
        question=f"What comes after {word}?",
        choices=["two", "a cat", "blue"],
        answer_index=i % 3,
        verifier="choice",
    )
    for i, word in enumerate(["one", "dog", "red", "three", "mouse"])
]


@pytest.fixture(scope="module")
def both(model: ModelArtifact) -> tuple[RunnerLM, HFLM]:
    loaded, tokenizer = load_model(model.path, "float32"), load_tokenizer(model.path)
    ours = RunnerLM(TorchRunner(loaded), tokenizer, None, batch_size=3)
    theirs = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=2, add_bos_token=False)
    return ours, theirs


def test_likelihoods_are_the_same(both: tuple[RunnerLM, HFLM]) -> None:
    pairs = [(f"Question: {row.question}\nAnswer:", f" {choice}") for row in ROWS for choice in row.choices]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    ours, theirs = (one.loglikelihood(requests, disable_tqdm=True) for one in both)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(reference[0], abs=1e-3)
        assert mine[1] == reference[1]


def test_generated_texts_are_the_same(both: tuple[RunnerLM, HFLM]) -> None:
    options = {"until": ["."], "max_gen_toks": 16, "do_sample": False}
    requests = [Instance("generate_until", {}, (row.question, options), index) for index, row in enumerate(ROWS)]
    ours, theirs = (one.generate_until(requests, disable_tqdm=True) for one in both)
    assert ours == theirs


def test_accuracy_of_a_task_is_the_same(both: tuple[RunnerLM, HFLM]) -> None:
    scores = [run_tasks(one, [task_config("order", ROWS, 8)])["order"]["acc_norm,none"] for one in both]  # type: ignore[arg-type]
    assert scores[0] == scores[1]
