"""What evaluate tells of a student that drafts for its original, and what it refuses."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaForCausalLM

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

CONFIG = EvaluateConfig(
    max_rows=3,
    max_new_tokens=12,
    num_samples=0,
    timing={"num_prompt_tokens": 16},
    precision="float32",
    drafts={"lengths": [1, 3], "num_prompts": 2},
)


@pytest.fixture(scope="module")
def student(shared_store: Store, model: ModelArtifact) -> ModelArtifact:
    return prune.execute(PruneConfig(blocks=[2]), PruneInputs(model=model), shared_store).artifact


def measured(store: Store, draft: ModelArtifact, original: ModelArtifact, questions: DatasetArtifact, **changes):
    config = CONFIG.with_changes(**changes)
    inputs = EvaluateInputs(model=draft, tasks=(questions,), original=original)
    artifact = evaluate.execute(config, inputs, store).artifact
    return artifact, json.loads((artifact.path / "evaluation.json").read_text())["speculation"]


def test_a_student_drafts_for_its_original(
    store: Store, student: ModelArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    artifact, entries = measured(store, student, model, questions)
    assert [entry["draft_length"] for entry in entries] == [1, 3]
    for entry in entries:
        assert entry["num_prompts"] == 2 and entry["num_different_texts"] == 0 and entry["dtype"] == "float32"
        assert entry["acceptance_fraction"] == entry["num_accepted"] / entry["num_drafted"]
        assert entry["tokens_per_step"] == entry["num_tokens"] / entry["num_steps"] >= 1.0
    best = max(entries, key=lambda entry: entry["gain"])
    assert artifact.facts["draft_gain"] == best["gain"] and artifact.facts["draft_length"] == best["draft_length"]


def test_the_original_is_its_own_perfect_draft(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    _, entries = measured(store, model, model, questions)
    assert {entry["acceptance_fraction"] for entry in entries} == {1.0}


def test_bfloat16_counts_the_texts_that_differ_and_does_not_fail(
    store: Store, student: ModelArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    _, entries = measured(store, student, model, questions, precision="bfloat16")
    assert all(0 <= entry["num_different_texts"] <= 2 and entry["dtype"] == "bfloat16" for entry in entries)


def test_a_text_that_is_not_the_originals_fails_the_node(
    store: Store,
    student: ModelArtifact,
    model: ModelArtifact,
    questions: DatasetArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the library kept whatever the draft says."""
    generate = LlamaForCausalLM.generate

    def gullible(self, *args, assistant_model=None, **kwargs):
        output = generate(self, *args, assistant_model=assistant_model, **kwargs)
        if assistant_model is not None:
            output[0, -2] = (output[0, -2] + 1) % 200
        return output

    monkeypatch.setattr(LlamaForCausalLM, "generate", gullible)
    with pytest.raises(
        ValueError, match="drafting 1 tokens changed 2 of 2 texts: question 0 first differs at token 10"
    ):
        measured(store, student, model, questions)
    assert not list((store.root / "store").glob("evaluate/*"))


@pytest.mark.parametrize(
    ("facts", "tasks", "message"),
    [
        ({"format": "onnx"}, ({},), "an ONNX graph does not draft"),
        ({"vocab_size": 8}, ({},), "vocabulary mismatch: model 8, original 9 tokens"),
        ({"vocab_size": 9}, (), "give the input tasks"),
    ],
)
def test_what_cannot_draft_is_refused_before_anything_runs(facts: dict, tasks: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate.forecast(CONFIG, {"model": (facts,), "original": ({"vocab_size": 9},), "tasks": tasks, "text": ({},)})
