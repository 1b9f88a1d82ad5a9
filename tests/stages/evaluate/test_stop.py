"""Evaluation in random blocks on a real model: it ends once the verdict is sure, and the gate reads what it kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, EvaluationArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.evidence import evaluation_claim
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.runtime.progress import hearing, listen

CONFIG = EvaluateConfig(num_samples=1, max_new_tokens=4, timing={"num_prompt_tokens": 16}, precision="float32")
STOP = {"checks": [{"measure": "accuracy_drop", "limit": 0.3}], "block_size": 12}


@pytest.fixture(scope="module")
def choices(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    """A hundred and twenty questions with two choices each."""
    path = tmp_path_factory.mktemp("choices") / "choices.jsonl"
    rows = [
        {"question": f"Is {index} even?", "choices": ["yes, it is", "no"], "answer": index % 2} for index in range(120)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0)
    return ingest_data.execute(config, NoInputs(), shared_store).artifact


def content(artifact: EvaluationArtifact) -> dict:
    return json.loads((artifact.path / "evaluation.json").read_text())


def test_an_unchanged_model_is_sure_after_few_blocks(
    store: Store, model: ModelArtifact, choices: DatasetArtifact
) -> None:
    baseline = evaluate.execute(CONFIG, EvaluateInputs(model=model, tasks=(choices,)), store).artifact
    inputs = EvaluateInputs(model=model, tasks=(choices,), baseline=baseline)
    notes: list[str] = []
    with listen(hearing(note=lambda event: notes.append(event.text))):
        made = evaluate.execute(CONFIG.with_changes(stop=STOP), inputs, store).artifact
    whole, early = content(baseline), content(made)
    assert whole["stopping"] is None and len(whole["right"]["choices"]) == 120
    assert early["stopping"]["ended"] == "surely passed" and early["stopping"]["num_asked"] < 60
    assert early["num_rows"] == {"choices": early["stopping"]["num_asked"]}
    # the same answers to the same questions, whichever were asked first
    known = dict(zip(whole["question_ids"]["choices"], whole["right"]["choices"], strict=True))
    answers = zip(early["question_ids"]["choices"], early["right"]["choices"], strict=True)
    assert all(known[question] == right for question, right in answers)
    assert early["question_ids"]["choices"] != whole["question_ids"]["choices"][: early["stopping"]["num_asked"]]
    assert any(note.startswith("surely passed after") and "of 120 questions" in note for note in notes)
    claim = evaluation_claim(GateCheck(**STOP["checks"][0]), early, whole)
    assert claim.evidence is not None and claim.evidence.p_value(0.3, is_upper=True) <= 0.05
    assert early["memory_bytes"] > 4 * early["num_parameters"]
    assert len(early["latency"]["decode_seconds_per_token_rounds"]) == early["latency"]["num_rounds"]


def test_stop_and_its_input_go_together() -> None:
    some: dict = {"model": ({},), "tasks": ({},)}
    with pytest.raises(ValueError, match="stop: which answers changed is not known .*; give the input baseline"):
        evaluate.forecast(CONFIG.with_changes(stop=STOP), some)
    with pytest.raises(ValueError, match="baseline is read by stop alone"):
        evaluate.forecast(CONFIG, {**some, "baseline": ({},)})
    with pytest.raises(ValueError, match="stop: there is no question to ask"):
        evaluate.forecast(CONFIG.with_changes(stop=STOP), {"model": ({},), "text": ({},)})


def test_tasks_of_lm_eval_run_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tasks of lm-eval run whole"):
        EvaluateConfig(stop=STOP, harness={"folder": str(tmp_path), "tasks": ["mine"]})
