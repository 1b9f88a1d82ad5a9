"""Our lm-eval adapter against lm-eval's own Hugging Face model, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from attar.compressors.catalogue import build
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.prompts import row_prompt, row_prompt_text
from attar.stages.artifacts.dataset.right_answers import right_answers, right_choices, written_answers
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

    from attar.stages.evaluate.harness import RunnerLM

# lm-eval and datasets are imported where they are called: every worker reads this file to know its tests, and one runs them.
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
    from lm_eval.models.huggingface import HFLM

    from attar.stages.evaluate.harness import RunnerLM

    loaded, tokenizer = load_model(model.path, "float32"), load_tokenizer(model.path)
    ours = RunnerLM(TorchRunner(loaded), tokenizer, None, batch_size=3)
    peer = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=2, add_bos_token=False)
    return ours, peer


def test_likelihoods_are_the_same(both: tuple[RunnerLM, HFLM]) -> None:
    from lm_eval.api.instance import Instance

    pairs = [(f"Question: {row.question}\nAnswer:", f" {choice}") for row in ROWS for choice in row.choices]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    ours, peer_scores = (runner.loglikelihood(requests, disable_tqdm=True) for runner in both)
    for own_score, reference in zip(ours, peer_scores, strict=True):
        assert own_score[0] == pytest.approx(reference[0], abs=1e-3)
        assert own_score[1] == reference[1]


def test_generated_texts_are_the_same(both: tuple[RunnerLM, HFLM]) -> None:
    from lm_eval.api.instance import Instance

    options = {"until": ["."], "max_gen_toks": 16, "do_sample": False}
    requests = [Instance("generate_until", {}, (row.question, options), index) for index, row in enumerate(ROWS)]
    ours, peer_texts = (runner.generate_until(requests, disable_tqdm=True) for runner in both)
    assert ours == peer_texts


def test_choices_are_right_where_lm_eval_says_so(both: tuple[RunnerLM, HFLM]) -> None:
    import datasets

    from attar.stages.evaluate.harness import RIGHT, run_tasks

    documents = [
        {"prompt": f"Question: {row.question}\nAnswer:", "choices": row.choices, "answer_index": row.answer_index}
        for row in ROWS
    ]
    config = {
        "task": "order",
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(documents)},
        "test_split": "test",
        "metadata": {"version": 1.0},
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "answer_index",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    right = [run_tasks(runner, [config])["order"][RIGHT] for runner in both]  # type: ignore[arg-type]
    assert right[0] == right[1]
    runner, tokenizer = both[0].runner, both[0].tokenizer
    assert right_choices(runner, ROWS, tokenizer, batch_size=2, name="order") == right[0]  # type: ignore[arg-type]


def test_written_answers_are_right_where_lm_eval_says_so(both: tuple[RunnerLM, HFLM]) -> None:
    """Every second row is asked for what the model writes: some are right, some wrong."""
    import datasets

    from attar.stages.evaluate.harness import RIGHT, run_tasks

    runner, tokenizer = both[0].runner, both[0].tokenizer
    rows = [Row(id=row.id, question=row.question, answer="?", verifier="contains") for row in ROWS]
    options: dict[str, Any] = {"max_new_tokens": 8, "stop_ids": both[0].stop_ids, "batch_size": 2}
    answers = written_answers(runner, rows, tokenizer, **options)
    rows = [
        row.with_changes(answer=answers[tuple(row_prompt(tokenizer, row))]) if index % 2 else row
        for index, row in enumerate(rows)
    ]
    documents = [
        {"prompt": row_prompt_text(tokenizer, row), "answer": row.answer, "verifier": row.verifier} for row in rows
    ]
    config = {
        "task": "open",
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(documents)},
        "test_split": "test",
        "metadata": {"version": 1.0},
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [], "max_gen_toks": 8, "do_sample": False},
        "process_results": checked,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    right = [run_tasks(runner, [config])["open"][RIGHT] for runner in both]  # type: ignore[arg-type]
    assert right[0] == right[1] == right_answers(rows, tokenizer, written_answers(runner, rows, tokenizer, **options))
    assert 0 < sum(right[0]) < len(rows)


def checked(document: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    check = build(ANSWER_CHECKS, document["verifier"])
    return {"exact_match": float(check(results[0], document["answer"], []) is None)}
