"""The gate on intervals, end to end: a cut model, what was measured of it, and the version that comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.registry.tracking.mlflow_home import open_client
from attar.stages.compare.config import CompareConfig, CompareInputs
from attar.stages.compare.stage import compare
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.register.config import RegisterConfig, RegisterInputs
from attar.stages.register.stage import register
from attar.stages.runtime.progress import hearing, listen

SCORES = EvaluateConfig(num_samples=0, max_new_tokens=4, timing={"num_prompt_tokens": 16}, precision="float32")


@pytest.fixture
def inputs(store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path) -> RegisterInputs:
    (tmp_path / "story.txt").write_text("The boat came in at dawn, and nobody saw it. " * 40)
    source = IngestDataConfig(source=f"text:{tmp_path / 'story.txt'}", heldout_fraction=0.0)
    story = ingest_data.execute(source, NoInputs(), store).artifact
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=model), store).artifact
    baseline = evaluate.execute(SCORES, EvaluateInputs(model=model, tasks=(questions,)), store).artifact
    scores = evaluate.execute(SCORES, EvaluateInputs(model=cut, tasks=(questions,), beside=model), store).artifact
    config = CompareConfig(precision="float32", max_tokens=16)
    compared = compare.execute(config, CompareInputs(model=(cut,), original=model, texts=(story,)), store).artifact
    return RegisterInputs(model=cut, evaluation=scores, baseline=baseline, comparison=compared)


def released(store: Store, inputs: RegisterInputs, *checks: dict, **options) -> tuple[dict, list[str]]:
    notes: list[str] = []
    config = RegisterConfig(name="small", gate={"checks": checks, **options})
    with listen(hearing(note=lambda event: notes.append(event.text))):
        made = register.execute(config, inputs, store).artifact
    return json.loads((made.path / "release.json").read_text()), notes


def test_three_verdicts_and_what_comes_of_them(store: Store, inputs: RegisterInputs) -> None:
    size, kl = {"measure": "parameters_ratio", "limit": 0.99}, {"measure": "kl_nats", "limit": 50.0}
    passed, notes = released(store, inputs, size, kl, {**kl, "data": "story"})
    assert passed["verdict"] == "passed" and passed["is_champion"]
    assert "gate at one-sided level 0.05, Holm over 2 checks; 1 are exact" in notes
    few, notes = released(store, inputs, size, {"measure": "accuracy_drop", "limit": 0.01})
    assert few["verdict"] == "too few questions" and not few["is_champion"]
    check = few["checks"][1]
    assert check["measured_on"] == "3 questions" and check["num_more"] > 50
    assert f"about {check['num_more']:,} more questions would pass it" in check["undecided"]
    assert any("as candidate; too few questions: model accuracy_drop" in note for note in notes)
    failed, _ = released(store, inputs, {"measure": "bytes_ratio", "limit": 0.1}, kl)
    assert failed["verdict"] == "failed" and failed["checks"][0]["verdict"] == "failed"
    versions = {
        str(version.version): version.tags["validation_status"]
        for version in open_client(store.root).search_model_versions("name='small'")
    }
    assert versions == {"1": "passed", "2": "too few questions", "3": "failed"}


def test_what_nobody_measured_is_refused_and_nothing_is_registered(store: Store, inputs: RegisterInputs) -> None:
    for check, message in (
        ({"measure": "accuracy_drop", "limit": 0.1, "data": "sum"}, "'sum' was not measured. Did you mean 'sums'?"),
        ({"measure": "perplexity_ratio", "limit": 1.1}, "no text was measured"),
    ):
        config = RegisterConfig(name="small", gate={"checks": [check]})
        unread = RegisterInputs(model=inputs.model, evaluation=inputs.evaluation, baseline=inputs.baseline)
        with pytest.raises(ValueError, match=message):
            register.execute(config, unread, store)
    wrong = RegisterInputs(
        model=inputs.model, evaluation=inputs.evaluation, baseline=inputs.evaluation, comparison=inputs.comparison
    )
    with pytest.raises(ValueError, match="comparison: it did not compare the model"):
        register.execute(
            RegisterConfig(name="small", gate={"checks": [{"measure": "kl_nats", "limit": 1.0}]}), wrong, store
        )
    assert not open_client(store.root).search_registered_models()


def test_an_old_gate_says_what_it_ignores(store: Store, inputs: RegisterInputs) -> None:
    notes: list[str] = []
    old = RegisterInputs(model=inputs.model, evaluation=inputs.evaluation, baseline=inputs.baseline)
    with listen(hearing(note=lambda event: notes.append(event.text))):
        register.execute(RegisterConfig(name="small", gate={"max_size_ratio": 0.99}), old, store)
    [line] = [note for note in notes if note.startswith("gate of thresholds:")]
    assert "ignored are single tasks, KL and agreement, memory" in line and "gate.checks" in line
