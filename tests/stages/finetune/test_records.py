"""Recorded teachers: `record` keeps what a teacher says, `compare` measures students in pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.model.folder import load_model
from attar.stages.compare.stage import CompareConfig, CompareInputs, compare
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.runtime.progress import listen


def test_record_keeps_what_the_teacher_says_of_every_token(model: ModelArtifact, recorded: DatasetArtifact) -> None:
    teacher, original = TeacherRecord(recorded.path), load_model(model.path, torch.float32)
    rows = read_rows(recorded.path / "rows.jsonl")
    assert {row.split for row in rows} == {"train", "choose", "heldout"}, (
        "long text gives pieces for choices and held-out ones"
    )
    for row in (rows[0], rows[-1]):
        ids, logprobs = teacher.of(row)  # type: ignore[misc]
        tokens = [*row.prompt_ids, *row.answer_ids]
        with torch.no_grad():
            expected = original(input_ids=torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
        assert len(ids) == len(tokens) - 1
        torch.testing.assert_close(logprobs.float(), expected.gather(-1, ids.long()), atol=2e-3, rtol=2e-3)


def test_record_of_answers_speaks_about_answers_only(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = RecordConfig(tokens="answers", num_recorded=8, precision="float32")
    artifact = record.execute(config, RecordInputs(model=model, data=questions), store).artifact
    for row in read_rows(artifact.path / "rows.jsonl"):
        ids, _ = TeacherRecord(artifact.path).of(row)  # type: ignore[misc]
        assert row.question and len(ids) == len(row.answer_ids)


def test_a_record_killed_before_it_was_sealed_is_finished_again(
    tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    """Killed after its candidates were put in place: the store clears what was half made and runs the stage in the same work folder."""
    config, inputs = RecordConfig(num_recorded=8, precision="float32"), RecordInputs(model=model, data=questions)
    (tmp_path / "content").mkdir()
    first = record.run(config, inputs, tmp_path)
    made = {path.name: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "content")
    (tmp_path / "content").mkdir()
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        again = record.run(config, inputs, tmp_path)
    assert any("continuing" in note for note in notes)
    assert {path.name: path.read_bytes() for path in again.path.rglob("*") if path.is_file()} == made and len(made) == 2


def test_data_sets_of_one_name_are_compared_apart(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, prose: DatasetArtifact
) -> None:
    config = CompareConfig(max_rows=2, max_tokens=64, max_text_tokens=128, precision="float32")
    inputs = CompareInputs(model=(model,), original=model, tasks=(questions, questions), texts=(prose,))
    facts = compare.execute(config, inputs, store).artifact.facts
    assert {"kl_nats_prose", "kl_nats_sums_1", "kl_nats_sums_2"} <= set(facts)


def test_students_differ_on_the_questions_with_choices_and_on_those_without_in_one_data_set(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"question": f"{n} and {n}?", "answer": f"It is {2 * n}."} for n in range(3)]
    rows += [{"question": f"Is {n} odd?", "answer": n % 2, "choices": ["no", "yes"]} for n in range(3)]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest = IngestDataConfig(source=f"jsonl:{tmp_path / 'both.jsonl'}", heldout_fraction=0.0)
    both = ingest_data.execute(ingest, NoInputs(), store).artifact
    config = CompareConfig(names=("same", "cut"), against={"cut": ("same",)}, precision="float32")
    inputs = CompareInputs(model=(model, pruned), original=model, tasks=(both,))
    facts = compare.execute(config, inputs, store).artifact.facts
    for measure in ("kl_nats", "agreement", "loss_nats", "accuracy"):
        apart = float(facts[f"cut_{measure}_both"]) - float(facts[f"same_{measure}_both"])
        assert facts[f"cut_minus_same_{measure}_both"] == pytest.approx(apart, abs=1e-6)
    assert float(facts["cut_minus_same_kl_nats_both"]) > 0


def test_compare_finds_nothing_between_a_model_and_itself_and_much_after_a_cut(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, questions: DatasetArtifact, prose: DatasetArtifact
) -> None:
    config = CompareConfig(num_own_answers=3, max_new_tokens=8, max_tokens=64, max_text_tokens=256, precision="float32")
    inputs = {"original": model, "tasks": (questions,), "texts": (prose,)}
    same = compare.execute(config, CompareInputs(model=(model,), **inputs), store).artifact  # type: ignore[arg-type]
    cut = compare.execute(config, CompareInputs(model=(pruned,), **inputs), store).artifact  # type: ignore[arg-type]
    names = ("prose", "sums", "own_answers")
    for name in names:
        assert same.facts[f"kl_nats_{name}"] == pytest.approx(0, abs=1e-5)
        assert same.facts[f"agreement_{name}"] == 1.0 and same.facts[f"perplexity_ratio_{name}"] == 1.0
        assert float(cut.facts[f"kl_nats_{name}"]) > 0.05 and float(cut.facts[f"agreement_{name}"]) < 1.0
    result = json.loads((Path(cut.path) / "comparison.json").read_text())
    assert all(
        result[name]["kl_nats"]["low"] <= result[name]["kl_nats"]["value"] <= result[name]["kl_nats"]["high"]
        for name in names
    )
    named = config.with_changes(names=("same", "cut"), against={"cut": ("same",)})
    both = compare.execute(
        named,
        CompareInputs(model=(model, pruned), **inputs),
        store,  # type: ignore[arg-type]
    ).artifact
    assert {
        name.removeprefix("cut_"): value
        for name, value in both.facts.items()
        if name.startswith("cut_") and "_minus_" not in name
    } == cut.facts
    comparison = json.loads((Path(both.path) / "comparison.json").read_text())
    assert comparison["cut"] == result
    for name in names:
        apart = comparison["cut minus same"][name]["kl_nats"]
        assert apart["value"] == pytest.approx(result[name]["kl_nats"]["value"], abs=1e-5), "nothing is taken from it"
        assert apart["low"] == pytest.approx(result[name]["kl_nats"]["low"], abs=1e-5)
        lost = comparison["cut minus same"][name]["agreement"]["value"]
        assert (
            both.facts[f"cut_minus_same_agreement_{name}"]
            == lost
            == pytest.approx(result[name]["agreement"]["value"] - 1)
        )
    several: Any = {"model": ({}, {}), "original": ({},), "tasks": ({},)}
    with pytest.raises(ValueError, match="names: 0 for 2 models"):
        compare.forecast(config, several)
    with pytest.raises(ValueError, match="against: 'old' is no model; accepted: same, cut"):
        compare.forecast(named.with_changes(against={"cut": ("old",)}), several)
    with pytest.raises(ValueError, match="against: 'cut' is set against itself"):
        compare.forecast(named.with_changes(against={"cut": ("cut",)}), several)
