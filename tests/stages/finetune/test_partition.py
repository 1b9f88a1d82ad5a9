"""Three parts of a data set: what is learned, what choices are made on, what is reported; and data sets from before there were three."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.artifacts.dataset.partition import parted
from attar.stages.artifacts.dataset.rows import Row, piece_split, read_rows, split_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.fit_share import FitShareConfig, FitShareInputs, fit_share
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.choose_teacher import chance
from attar.stages.merge.config import SearchConfig
from attar.stages.merge.search import dev_rows
from attar.stages.runtime.progress import Note, listen

TRAINING = FinetuneConfig(
    objectives={"next_token": 1.0},
    schedule={"num_epochs": 1, "tokens_per_step": 512},
    compute={"tokens_per_micro_batch": 512, "precision": "float32"},
)


def key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def parts_of(texts: list[str], heldout: float, choose: float | None) -> dict[str, str]:
    rows = [Row(id=str(index), question=text) for index, text in enumerate(texts)]
    made = parted(rows, [key(text) for text in texts], heldout_fraction=heldout, choose_fraction=choose)
    assert [row.id for row in made] == [row.id for row in rows], "in their order"
    return {row.question: row.split for row in made}


def count(parts: dict[str, str]) -> dict[str, int]:
    return {part: list(parts.values()).count(part) for part in ("train", "choose", "heldout")}


TEXTS = [f"question {index}" for index in range(40)]


def test_three_parts_by_content_whatever_the_order_and_no_row_in_two() -> None:
    parts = parts_of(TEXTS, 0.2, None)
    assert count(parts) == {"train": 28, "choose": 4, "heldout": 8}
    assert parts_of(TEXTS[::-1], 0.2, None) == parts
    assert count(parts_of(TEXTS, 0.2, 0.3)) == {"train": 20, "choose": 12, "heldout": 8}
    # what is reported is what it was without a part for choices
    alone = parts_of(TEXTS, 0.2, 0.0)
    assert count(alone) == {"train": 32, "choose": 0, "heldout": 8}
    assert [text for text in TEXTS if alone[text] == "heldout"] == [text for text in TEXTS if parts[text] == "heldout"]
    assert count(parts_of(TEXTS, 0.0, None)) == {"train": 40, "choose": 0, "heldout": 0}
    assert count(parts_of(TEXTS[:3], 0.3, None)) == {"train": 1, "choose": 1, "heldout": 1}
    assert count(parts_of(TEXTS[:2], 0.5, None)) == {"train": 1, "choose": 0, "heldout": 1}, "one is left to learn"


def test_rows_about_the_same_stay_together() -> None:
    texts = [text for text in TEXTS[:20] for _ in range(3)]
    rows = [Row(id=str(index), question=text) for index, text in enumerate(texts)]
    made = parted(rows, [key(text) for text in texts], heldout_fraction=0.25, choose_fraction=None)
    for text in TEXTS[:20]:
        assert len({row.split for row in made if row.question == text}) == 1
    assert {row.split for row in made} == {"train", "choose", "heldout"}


def test_pieces_of_a_text_are_for_choices_and_held_out_in_turn() -> None:
    parts = [piece_split("train", piece) for piece in range(64)]
    assert [parts.index("choose"), parts.index("heldout")] == [15, 31]
    assert parts.count("choose") == parts.count("heldout") == 2
    assert {piece_split("heldout", piece) for piece in range(64)} == {"heldout"}
    assert {piece_split("choose", piece) for piece in range(64)} == {"choose"}


def ingested(store: Store, questions: DatasetArtifact, **options) -> DatasetArtifact:
    config = IngestDataConfig(source=str(questions.facts["source"]), **options)
    return ingest_data.execute(config, NoInputs(), store).artifact


def test_what_chooses_reads_no_row_that_is_reported(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    rows = read_rows(questions.path / "rows.jsonl")
    reported = {row.question for row in question_rows(questions)}
    assert questions.facts["num_choose"] == len(split_rows(rows, "choose")) == 2
    assert reported == {row.question for row in split_rows(rows, "heldout")}
    training = TrainingRows.read(
        (questions,),
        load_tokenizer(model.path),
        learn=TRAINING.rows.learn,
        max_tokens=TRAINING.rows.max_tokens,
        reads_record=False,
    )
    evaluated = {row.question for row in training.heldout_rows}
    learned = {row.question for row in training.questions if row is not None}
    assert evaluated == {row.question for row in split_rows(rows, "choose")} and training.evaluated_parts == ["choose"]
    judged = {row.question for row in dev_rows(SearchConfig(grid={"t": [0.5]}, measure="loss"), [questions])}
    assert judged == evaluated
    assert not reported & (evaluated | learned | judged) and not evaluated & learned
    adapter = finetune.execute(TRAINING, FinetuneInputs(model=model, data=(questions,)), store).artifact
    assert adapter.facts["chosen_on"] == ("choose",)
    fitted = fit_share.execute(
        FitShareConfig(precision="float32"), FitShareInputs(on_labels=model, on_teacher=model, data=questions), store
    ).artifact
    assert fitted.facts["fitted_on"] == "choose"


def test_a_data_set_of_two_parts_works_and_says_what_its_figures_are(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    old = ingested(store, questions, heldout_fraction=0.25, choose_fraction=0.0)
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        adapter = finetune.execute(TRAINING, FinetuneInputs(model=model, data=(old,)), store).artifact
        fitted = fit_share.execute(
            FitShareConfig(precision="float32"), FitShareInputs(on_labels=model, on_teacher=model, data=old), store
        ).artifact
    assert adapter.facts["chosen_on"] == (fitted.facts["fitted_on"],) == ("heldout",)
    warnings = [note for note in notes if "has no rows set apart for choices" in note]
    assert len(warnings) == 2 and "decide which state is kept and are what an evaluation reads too" in warnings[0]
    dev = {row.question for row in dev_rows(SearchConfig(grid={"t": [0.5]}, measure="loss"), [old])}
    assert dev == {row.question for row in split_rows(read_rows(old.path / "rows.jsonl"), "train")}, "as before"


def test_fractions_that_leave_nothing_to_learn_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "a", "answer": "b"}))
    with pytest.raises(ValueError, match="are 0.6 and 0.4, which leaves no row to train on; accepted: a sum below 1"):
        IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.6, choose_fraction=0.4)


def test_two_teachers_within_chance_are_said_to_be() -> None:
    assert "lie within chance" in chance([0.50, 0.55], 1, [64, 64])
    assert chance([0.30, 0.80], 1, [64, 64]) == ""
    assert "lie within chance" in chance([0.30, 0.80], 1, [2, 2])
    assert "lie within chance" in chance([1.0, 1.0], 0, [64, 64]), "the first of equals"
    assert chance([0.5], 0, [64]) == "" and chance([0.5, 0.6], 1, [0, 64]) == "", "adapters from before counts"
