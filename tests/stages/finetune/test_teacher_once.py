"""A live teacher that is run once: its states are kept, and the training is the same."""

from __future__ import annotations

import os

import pytest

from attar.compressors.distill.examples.packing import Batch, Example
from attar.compressors.distill.teachers.outputs import TeacherOutputs
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.finetune import training_rows
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_rows import PREFIX_FILE, TEACHER_FILE, TrainingRows
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import listen
from tests.stages.finetune.recovered import CONFIG, curve, fold, train, weights


def test_a_live_teacher_trains_like_a_record_of_all_candidates(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    offline = train(store, pruned, recorded, num_epochs=2)
    live = train(store, pruned, recorded, num_epochs=2, teacher=model)
    actual, reference = curve(offline, "heldout_forward_kl_nats"), curve(live, "heldout_forward_kl_nats")
    # what is stored is rounded to half precision
    assert actual == pytest.approx(reference, abs=5e-3) and actual[-1] < 0.8 * actual[0]


@pytest.mark.parametrize("changes", [{}, {"adapt_blocks": "after_cut", "is_packed": False}, {"learn": "answers"}])
def test_a_teacher_that_runs_once_teaches_what_it_says_at_every_step(
    store: Store,
    model: ModelArtifact,
    pruned: ModelArtifact,
    mixed: tuple[DatasetArtifact, ...],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
) -> None:
    live = train(store, pruned, *mixed, num_epochs=2, max_tokens=64, teacher=model, **changes)
    batches_read: list[int] = []
    speak = OtherModel.speak

    def counted(self: OtherModel, student: Student, batch: Batch) -> TeacherOutputs:
        batches_read.append(batch.input_ids.numel())
        return speak(self, student, batch)

    monkeypatch.setattr(OtherModel, "speak", counted)
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        once = train(
            store, pruned, *mixed, num_epochs=2, max_tokens=64, teacher=model, run_teacher_once=True, **changes
        )
    assert any("begins with the same 1 blocks" in note for note in notes) == ("adapt_blocks" in changes)
    for name in ("train_forward_kl_nats", "heldout_forward_kl_nats"):
        actual, reference = curve(once, name), curve(live, name)
        assert actual == pytest.approx(reference, rel=1e-3, abs=1e-5) and len(actual) > 1
    assert curve(once, "heldout_forward_kl_nats")[-1] < 0.9 * curve(once, "heldout_forward_kl_nats")[0]
    tokens = sum(example.num_tokens for example in rows_read(pruned, mixed))
    assert tokens <= sum(batches_read) < 1.5 * tokens, (
        "padding aside, every token once, though there are two epochs and several evaluations"
    )


@pytest.mark.parametrize("left", ["whole", "without contents", "cut short"])
def test_what_was_run_once_is_found_again_by_a_run_that_goes_on(
    store: Store,
    model: ModelArtifact,
    pruned: ModelArtifact,
    mixed: tuple[DatasetArtifact, ...],
    monkeypatch: pytest.MonkeyPatch,
    left: str,
) -> None:
    options = {"num_epochs": 2, "max_tokens": 64, "adapt_blocks": "after_cut", "run_teacher_once": True}
    whole = train(Store(store.root / "uninterrupted"), pruned, *mixed, teacher=model, **options)
    with monkeypatch.context() as changed:
        changed.setattr(TrainingRun, "train", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(store, pruned, *mixed, teacher=model, **options)
    (workdir,) = (store.root / "work").glob("*/")
    for name in (PREFIX_FILE, TEACHER_FILE):
        file = workdir / name
        assert file.exists() and file.with_suffix(".json").exists()
        if left == "without contents":  # killed before the last example was written
            file.with_suffix(".json").unlink()
        elif left == "cut short":
            os.truncate(file, file.stat().st_size // 2)
    ran: list[str] = []
    for name in ("record_prefix", "run_once"):
        original = getattr(training_rows, name)
        monkeypatch.setattr(
            training_rows,
            name,
            lambda *args, _name=name, _run=original, **more: ran.append(_name) or _run(*args, **more),
        )
    resumed = train(store, pruned, *mixed, teacher=model, **options)
    assert ran == ([] if left == "whole" else ["record_prefix", "run_once"])
    assert resumed.fingerprint == whole.fingerprint


def _interrupted(run: TrainingRun) -> None:
    raise KeyboardInterrupt


def rows_read(model: ModelArtifact, data: tuple[DatasetArtifact, ...]) -> list[Example]:
    rows = TrainingRows.read(data, load_tokenizer(model.path), learn="answers", max_tokens=64, reads_record=False)
    return [*rows.train, *rows.heldout]


def test_a_teacher_that_runs_once_is_refused_where_it_would_not_do(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, questions: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match="teacher.run_once is true, but the node has no input `teacher`"):
        finetune.forecast(CONFIG.with_changes(teacher={"run_once": True}), {"model": ({},), "data": ({},)})
    for changes in ({"rollout": "student"}, {"objectives": {"relation": {"divergence": "attention_relation"}}}):
        with pytest.raises(ValueError, match="teacher.run_once keeps the teacher's last states of given answers"):
            FinetuneConfig(**{"teacher": {"run_once": True}, "objectives": {"forward_kl": 1.0}, **changes})


def test_frozen_blocks_are_run_once_and_change_nothing(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        adapter = train(store, pruned, recorded, adapt_blocks="after_cut")
    assert any("the first 1 blocks are frozen" in note for note in notes)
    trained = {name.split(".")[2] for name in weights(adapter) if ".layers." in name}
    assert trained == {"1", "2"}, "the block before the cut, which may hold a patch, and what follows"
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert heldout[-1] < 0.8 * heldout[0]
    # the adapter was trained on recorded states: it must help the model that runs all its blocks
    healed = fold(store, pruned, adapter)
    again = train(store, healed, recorded, max_steps=1, learning_rate=1e-9)
    assert curve(again, "heldout_forward_kl_nats")[0] == pytest.approx(min(heldout), abs=2e-3)


def test_what_was_healed_can_be_healed_again_behind_its_cut(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    healed = fold(store, pruned, train(store, pruned, recorded, adapt_blocks="after_cut", num_epochs=4))
    assert healed.facts["removed_blocks"] == pruned.facts["removed_blocks"]
    again = train(store, healed, recorded, adapt_blocks="after_cut", num_epochs=4, seed=1)
    heldout = curve(again, "heldout_forward_kl_nats")
    assert min(heldout) < heldout[0]
    assert {name.split(".")[2] for name in weights(again) if ".layers." in name} == {"1", "2"}
