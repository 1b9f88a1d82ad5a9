"""Curation: what is left out is listed with its reason, what stays is unchanged, and one-sided data is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.contract import NoInputs
from attar.stages.finetune.stage import FinetuneConfig, FinetuneInputs, finetune
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.curate import CurateConfig, CurateInputs, curate
from attar.stages.self_data.original_writer import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data

ANSWER = "A fox is a small wild animal with red fur that lives in the woods."


def dataset(folder: Path, rows: list[Row], **facts: Any) -> DatasetArtifact:
    """Rows as an artifact of their own, as if a stage had made them."""
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", rows)
    return DatasetArtifact(folder, {"name": "animals", **facts}, key="0" * 64, fingerprint=folder.name)


def distinct_rows(num_rows: int = 8) -> list[Row]:
    names = ["fox", "whale", "owl", "bee", "horse", "snail", "wolf", "crab"]
    return [
        Row(
            id=f"{index:06d}",
            question=f"What does a {name} eat in winter number {index}?",
            answer=f"The {name} of kind {index} eats {name} food and {index * 7} nuts.",
            split="heldout" if index < 2 else "train",
        )
        for index, name in enumerate(names[:num_rows])
    ]


def run(tmp_path: Path, rows: list[Row], tasks: tuple[DatasetArtifact, ...] = (), **options: Any) -> Path:
    inputs = CurateInputs(data=dataset(tmp_path / "data", rows), tasks=tasks)
    (tmp_path / "work" / "content").mkdir(parents=True)  # as the store does
    return curate.run(CurateConfig(**options), inputs, tmp_path / "work").path


def ids_in(content: Path) -> list[str]:
    return [row.id for row in read_rows(content / "rows.jsonl")]


def dropped(content: Path) -> dict[str, str]:
    path = content / "records" / "dropped.jsonl"
    return (
        {line["id"]: line["kind"] for line in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    )


def test_each_filter_drops_its_row_and_no_other(tmp_path: Path) -> None:
    rows = distinct_rows()
    bad = {
        "a": ("duplicate", {"question": rows[3].question.upper(), "answer": rows[3].answer}),
        "b": ("near duplicate", {"question": rows[4].question, "answer": rows[4].answer + " Yes."}),
        "c": ("too short", {"question": "Say yes in one word", "answer": "Yes"}),
        "d": ("too long", {"question": "Count", "answer": " ".join(map(str, range(200)))}),
        "e": ("repetitive", {"question": "Sing", "answer": "la la la " * 20}),
        "f": ("too hard", {"question": "Prove it", "answer": "I cannot prove it now", "pass_rate": 0.1}),
        "g": ("too easy", {"question": "Greet me", "answer": "Good morning to you", "pass_rate": 1.0}),
        "h": ("overlaps foxes", {"question": "Tell me about it", "answer": ANSWER}),
    }
    rows += [Row(id=name, **fields) for name, (_, fields) in bad.items()]
    task = dataset(tmp_path / "task", [Row(id="000003", question="What is a fox?", answer=ANSWER)])
    task = DatasetArtifact(task.path, {"name": "foxes"}, task.key, task.fingerprint)
    options = {"min_characters": 4, "max_characters": 300, "min_pass_rate": 0.2, "max_pass_rate": 0.9}
    content = run(tmp_path, rows, (task,), **options)
    assert ids_in(content) == [row.id for row in rows[:8]]
    assert read_rows(content / "rows.jsonl") == rows[:8]
    assert dropped(content) == {name: reason for name, (reason, _) in bad.items()}
    card = json.loads((content / "records" / "data_card.json").read_text())
    assert card["dropped"] == {reason: 1 for reason, _ in bad.values()}
    assert sum(card["provenance"].values()) == card["num_rows"] == 8
    assert "(of 000003)" in card["examples"]["dropped"]["duplicate"][0]["reason"]
    assert "row 000003" in card["examples"]["dropped"]["overlaps foxes"][0]["reason"]
    page = (content / "records" / "data_card.md").read_text()
    assert "| too hard | 1 |" in page and "| reference | 8 |" in page and f"    {ANSWER}" in page


def test_a_training_copy_of_a_heldout_row_goes_wherever_it_stands(tmp_path: Path) -> None:
    rows = distinct_rows()
    copy = rows[0].with_changes(id="copy", split="train")
    content = run(tmp_path, [copy, *rows])
    assert ids_in(content) == [row.id for row in rows] and dropped(content) == {"copy": "duplicate"}


@pytest.mark.parametrize(("part", "expected"), [("question", {"b"}), ("answer", {"a"}), ("both", set())])
def test_duplicates_are_of_the_part_asked_for(tmp_path: Path, part: str, expected: set[str]) -> None:
    rows = distinct_rows()
    rows += [
        rows[5].with_changes(id="a", question="Something else entirely"),
        rows[6].with_changes(id="b", answer=ANSWER),
    ]
    assert dropped(run(tmp_path, rows, duplicates_of=part)).keys() == expected


def test_held_out_rows_may_overlap_a_task_unless_told_otherwise(tmp_path: Path) -> None:
    rows = distinct_rows()
    task = dataset(tmp_path / "task", [rows[0], rows[5]])
    # `evaluate` asks the held-out rows of a task where there are any: the training row of the task is no overlap
    assert dropped(run(tmp_path / "1", rows, (task,))) == {}
    assert dropped(run(tmp_path / "2", rows, (task,), decontaminate="all")) == {rows[0].id: "overlaps animals"}
    questions = dataset(tmp_path / "asked", [rows[0], rows[5].with_changes(split="heldout")])
    assert dropped(run(tmp_path / "3", rows, (questions,))) == {rows[5].id: "overlaps animals"}


def test_rows_that_share_a_run_with_a_plain_text_for_evaluation_go(tmp_path: Path) -> None:
    rows = [*distinct_rows(), Row(id="000008", text="As told: the snail of kind 5 eats snail food and 35 nuts.")]
    quoted = "It is said that the owl of kind 2 eats owl food and 14 nuts; so they do. " * 3
    text = dataset(tmp_path / "text", [Row(id="000000", text=quoted), Row(id="000001", text=rows[8].text)])
    drops = dropped(run(tmp_path / "1", rows, (text,), ngram_words=8, duplicate_threshold=0.0))
    assert set(drops) == {rows[2].id, rows[5].id, rows[8].id} and set(drops.values()) == {"overlaps animals"}
    assert dropped(run(tmp_path / "2", rows, (text,), ngram_words=12, duplicate_threshold=0.0)) == {
        rows[8].id: "overlaps animals"
    }, "eleven of its words are no run of twelve, and a text as short as a run is one itself"


def test_a_budget_keeps_the_training_rows_farthest_apart_in_their_order(tmp_path: Path) -> None:
    rows = distinct_rows()
    alike = [rows[7].with_changes(id=f"copy-{index}") for index in range(5)]
    content = run(tmp_path, [*alike, *rows], max_rows=6, duplicate_threshold=0.0)
    assert [name for name in ids_in(content) if name.startswith("copy")] == ["copy-0"]
    assert ids_in(content) == ["copy-0", *(row.id for row in rows[:7])], "held-out rows are not counted"
    assert set(dropped(content).values()) == {"over budget"}


def test_a_random_part_is_the_same_part_whoever_else_is_there(tmp_path: Path) -> None:
    rows = [row.with_changes(id=f"{index:03d}") for index, row in enumerate(distinct_rows() * 4)]
    options = {"keep_fraction": 0.25, "budget_by": "random", "duplicate_threshold": 0.0}
    train = [row.id for row in rows if row.split == "train"]
    chosen = [name for name in ids_in(run(tmp_path / "1", rows, **options)) if name in train]
    assert len(chosen) == round(0.25 * len(train)) and chosen != train[: len(chosen)]
    assert [row.id for row in rows if row.split == "heldout"] == [
        name for name in ids_in(run(tmp_path / "2", rows, **options)) if name not in train
    ]
    fewer = [row for row in rows if row.id != next(name for name in train if name not in chosen)]
    again = [name for name in ids_in(run(tmp_path / "3", fewer, **options)) if name in train]
    assert set(again) <= set(chosen)


def test_the_same_rows_give_the_same_content(tmp_path: Path, store: Store, questions: DatasetArtifact) -> None:
    inputs = CurateInputs(data=questions)
    config = CurateConfig(budget={"max_rows": 5})
    first = curate.execute(config, inputs, store).artifact
    again = curate.execute(config, inputs, Store(store.root / "other")).artifact
    assert first.fingerprint == again.fingerprint and first.facts == again.facts
    metrics = [json.loads(line) for line in (first.path / "records" / "metrics.jsonl").read_text().splitlines()]
    assert {metric["name"]: metric["value"] for metric in metrics} == {
        "num_dropped_over_budget": 2.0,
        "kept_fraction": 10 / 12,
    }
    assert first.facts["num_rows"] == 5 + 2 + 3 and first.facts["num_dropped"] == 2


def test_the_recorded_teacher_goes_along_and_can_be_learned_from(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    recorded = SelfDataConfig(
        drawing={"max_new_tokens": 8}, batch_size=4, recorded={"num_candidates": 16}, precision="float32"
    )
    source = self_data.execute(recorded, SelfDataInputs(model=model, data=questions), store).artifact
    curated = curate.execute(CurateConfig(budget={"max_rows": 4}), CurateInputs(data=source), store).artifact
    before, after = TeacherRecord(source.path), TeacherRecord(curated.path)
    rows = read_rows(curated.path / "rows.jsonl")
    assert len(rows) == 4 + 2 + 3
    for row in rows:
        for actual, reference in zip(after.of(row), before.of(row), strict=True):  # type: ignore[arg-type]
            assert torch.equal(actual, reference)
    assert (curated.facts["num_recorded"], curated.facts["vocab_size"]) == (16, 259)
    student = FinetuneConfig(
        adapt={"rank": 2}, objectives={"forward_kl": 1.0}, schedule={"num_epochs": 1}, compute={"precision": "float32"}
    )
    assert finetune.execute(student, FinetuneInputs(model=model, data=(curated,)), store).artifact.facts["num_steps"]


def test_losses_are_the_models_own(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    """With every candidate recorded, the card's loss off the record is the one that the model gives."""
    recorded = SelfDataConfig(
        drawing={"max_new_tokens": 8}, batch_size=4, recorded={"num_candidates": 259}, precision="float32"
    )
    source = self_data.execute(recorded, SelfDataInputs(model=model, data=questions), store).artifact
    config = CurateConfig(precision="float32", length={"max_tokens": 100})
    cards = []
    for given in (None, model):
        artifact = curate.execute(config, CurateInputs(data=source, model=given), store).artifact
        cards.append(json.loads((artifact.path / "records" / "data_card.json").read_text())["loss_under_original"])
    assert cards[0]["num_reference"] == cards[1]["num_reference"] == 12
    assert cards[0]["reference_nats"] == pytest.approx(cards[1]["reference_nats"], abs=5e-3)
    card = json.loads((source.path / "records" / "data_card.json").read_text())
    assert card["loss_under_original"] == cards[0], "self_data writes a card too"
    assert (
        all(kind.startswith("kept: ") for kind in card["provenance"]) and card["lengths"]["answer tokens"]["p100"] < 60
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duplicate_threshold": 1.1}, "less than or equal to 1"),
        ({"max_characters": 3, "min_characters": 9}, "max_characters is 3, but min_characters is 9"),
        ({"max_tokens": 3, "min_tokens": 9}, "max_tokens is 3, but min_tokens is 9"),
        ({"min_pass_rate": 0.5, "max_pass_rate": 0.4}, "max_pass_rate is 0.4, but min_pass_rate is 0.5"),
        ({"ngram_words": 5}, "min_ngram_words is 8; accepted: at most ngram_words, 5"),
        ({"min_distinct_fraction": -0.1}, "greater than or equal to 0"),
        ({"duplicates_of": "prompt"}, "'question', 'answer' or 'both'"),
        ({"near_duplicates": True}, "Extra inputs are not permitted"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurateConfig(**options)


def test_what_cannot_be_measured_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="max_tokens is 9: no tokens to count; give the input model"):
        curate.forecast(CurateConfig(length={"max_tokens": 9}), {"data": ({"num_rows": 3},)})
    curate.forecast(CurateConfig(length={"max_tokens": 9}), {"data": ({"num_rows": 3, "num_recorded": 0},)})
    with pytest.raises(ValueError, match="vocabulary mismatch: model 300, recorded teacher 259 tokens"):
        curate.forecast(CurateConfig(), {"data": ({"vocab_size": 259},), "model": ({"vocab_size": 300},)})


def test_one_sided_data_is_refused_with_the_filter_that_took_it(tmp_path: Path) -> None:
    rows = distinct_rows()
    with pytest.raises(ValueError, match="no training rows are left of 6: 6 too long"):
        run(tmp_path / "1", [rows[0].with_changes(answer="yes ok"), *rows[1:]], max_characters=6)
    copies = [row.with_changes(split="train" if row.split == "heldout" else "heldout") for row in rows[2:]]
    with pytest.raises(ValueError, match="no held-out rows are left of 2: 2 too short"):
        run(tmp_path / "2", [*(row.with_changes(answer="no") for row in rows[:2]), *rows[2:]], min_characters=5)
    with pytest.raises(ValueError, match="the data set has no training rows; set heldout_fraction"):
        run(tmp_path / "3", copies)
    with pytest.raises(ValueError, match="the data set has no held-out rows; set heldout_fraction"):
        run(tmp_path / "4", rows[2:])
    with pytest.raises(ValueError, match="the data set has no training rows"):
        run(tmp_path / "5", [])


def test_other_data_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    rows = distinct_rows()
    nothing = dataset(tmp_path / "task", [Row(id="000000")])
    with pytest.raises(ValueError, match="tasks: data set 'animals' has neither questions nor text"):
        run(tmp_path / "1", rows, (nothing,))
    with pytest.raises(ValueError, match="min_pass_rate is 0.3, but no row has a pass rate"):
        run(tmp_path / "2", rows, min_pass_rate=0.3)
    with pytest.raises(ValueError, match="row 000000 has no tokens to count"):
        run(tmp_path / "3", rows, min_tokens=1)
    lost = [row.with_changes(recorded_in="shard-00009.safetensors") for row in rows]
    with pytest.raises(ValueError, match=r"logprobs/shard-00009.safetensors is missing"):
        run(tmp_path / "4", lost)


def test_text_alone_can_be_curated(store: Store, tmp_path: Path, questions: DatasetArtifact) -> None:
    path = tmp_path / "texts.jsonl"
    texts = [f"Number {index} is followed by number {index + 1} on the list." for index in range(6)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*texts, texts[0]]))
    source = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.3)
    data = ingest_data.execute(source, NoInputs(), store).artifact
    curated = curate.execute(
        CurateConfig(duplicates={"threshold": 1.0}), CurateInputs(data=data, tasks=(questions,)), store
    ).artifact
    assert curated.facts["num_rows"] == 6
