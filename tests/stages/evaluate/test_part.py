"""Which rows an evaluation reads: those that are reported, or those that choices are made on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.register.config import RegisterConfig
from attar.stages.register.stage import register
from attar.stages.runtime.progress import Note, listen

SMALL = {"max_new_tokens": 4, "num_samples": 0, "timing": {"num_prompt_tokens": 8}, "precision": "float32"}


def test_the_two_parts_are_other_questions_and_each_evaluation_says_which(
    store: Store, model: ModelArtifact, tmp_path: Path
) -> None:
    rows = [{"question": f"Pick {i}", "choices": ["red", "a blue one"], "answer": i % 2} for i in range(20)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"jsonl:{tmp_path / 'r.jsonl'}"
    config = IngestDataConfig(source=source, heldout_fraction=0.3, choose_fraction=0.2)
    data = ingest_data.execute(config, NoInputs(), store).artifact
    heldout, choose = ({row.question for row in question_rows(data, 0, part)} for part in ("heldout", "choose"))
    assert len(heldout) == 6 and len(choose) == 4 and not heldout & choose
    for part, questions in (("heldout", heldout), ("choose", choose)):
        inputs = EvaluateInputs(model=model, tasks=(data,))
        scores = evaluate.execute(EvaluateConfig(**SMALL, part=part), inputs, store).artifact
        assert scores.facts["part"] == part and scores.facts["num_questions"] == len(questions)
    facts = {"model": (model.facts,), "evaluation": (scores.facts,), "baseline": ({"part": "heldout"},)}
    with pytest.raises(ValueError, match="evaluation was measured on the rows that choices are made on"):
        register.forecast(RegisterConfig(name="m"), facts)
    # without rows of their own the two are the same, and that is told
    whole = ingest_data.execute(config.model_copy(update={"choose_fraction": 0.0}), NoInputs(), store).artifact
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        evaluate.execute(EvaluateConfig(**SMALL, part="choose"), EvaluateInputs(model=model, tasks=(whole,)), store)
    assert any("has no rows set apart for choices" in note for note in notes)
