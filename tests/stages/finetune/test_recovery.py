"""The way back to the original: a recorded or live teacher, frozen blocks, every method folded, and retention measured."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.distill.examples.packing import Batch, Example
from attar.compressors.distill.teachers.outputs import TeacherOutputs
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.compare.stage import CompareConfig, CompareInputs, compare
from attar.stages.contract import NoInputs
from attar.stages.finetune import training_rows
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_rows import PREFIX_FILE, TEACHER_FILE, TrainingRows
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.runtime.progress import listen

CONFIG = FinetuneConfig(
    adapt={"kind": "full"},
    objectives={"forward_kl": 1.0},
    rows={"learn": "all"},
    schedule={"num_epochs": 12, "learning_rate": 3e-3, "tokens_per_step": 256},
    compute={"tokens_per_micro_batch": 256, "precision": "float32"},
    heldout={"every": 4, "patience": 0},
)
PROSE = "The quick brown fox jumps over the lazy dog, and then it rests a while. " * 40


@pytest.fixture(scope="module")
def pruned(shared_store: Store, model: ModelArtifact) -> ModelArtifact:
    return prune.execute(PruneConfig(blocks=[2]), PruneInputs(model=model), shared_store).artifact


@pytest.fixture(scope="module")
def prose(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    path.write_text(PROSE)
    return ingest_data.execute(IngestDataConfig(source=f"text:{path}"), NoInputs(), shared_store).artifact


@pytest.fixture(scope="module")
def mixed(prose: DatasetArtifact, questions: DatasetArtifact) -> tuple[DatasetArtifact, ...]:
    return prose, questions


@pytest.fixture(scope="module")
def recorded(shared_store: Store, model: ModelArtifact, prose: DatasetArtifact) -> DatasetArtifact:
    config = RecordConfig(num_recorded=259, max_tokens=64, rows_per_shard=8, precision="float32")
    return record.execute(config, RecordInputs(model=model, data=prose), shared_store).artifact


def train(store: Store, model: ModelArtifact, *data: DatasetArtifact, **changes) -> AdapterArtifact:
    teacher = changes.pop("teacher", None)
    inputs = FinetuneInputs(model=model, data=data, teacher=teacher)
    return finetune.execute(CONFIG.with_changes(**changes), inputs, store).artifact


def curve(adapter: AdapterArtifact, name: str) -> list[float]:
    lines = (adapter.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [entry["value"] for entry in map(json.loads, lines) if entry["name"] == name]


def weights(adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    return load_file(next(adapter.path.glob("*.safetensors")))


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


def test_part_of_the_vocabulary_teaches_the_whole_of_it_and_goes_on_with_the_same_draws(
    store: Store,
    model: ModelArtifact,
    pruned: ModelArtifact,
    mixed: tuple[DatasetArtifact, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"num_epochs": 4, "max_tokens": 64, "run_teacher_once": True, "teacher": model}
    every = train(store, pruned, *mixed, **options)
    part = train(store, pruned, *mixed, **options, vocabulary_sample=96, checkpoint_every=2)
    before, after = (curve(part, "heldout_forward_kl_nats")[index] for index in (0, -1))
    # evaluations are whole: the same before the first step; measured 0.37 of it after the last, 0.27 with every entry: a random model's
    # distribution is flat, so that every second entry leaves much out
    assert before == curve(every, "heldout_forward_kl_nats")[0] and after < 0.5 * before
    assert curve(part, "train_forward_kl_nats") != curve(every, "train_forward_kl_nats")
    interrupted = Store(store.root / "interrupted")
    with monkeypatch.context() as changed:
        changed.setattr(TrainingRun, "train", _interrupted_after_a_checkpoint)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted, pruned, *mixed, **options, vocabulary_sample=96, checkpoint_every=2)
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        resumed = train(interrupted, pruned, *mixed, **options, vocabulary_sample=96, checkpoint_every=2)
    assert any("continuing at step 2" in note for note in notes)
    assert resumed.fingerprint == part.fingerprint


def _interrupted_after_a_checkpoint(run: TrainingRun) -> None:
    for taken in run.trainer.run():
        run._after(taken)
        if run.checkpoint.exists():
            raise KeyboardInterrupt


def test_part_of_the_vocabulary_is_refused_where_it_would_not_do() -> None:
    with pytest.raises(ValueError, match=r"vocabulary_sample is for a live teacher, .* accepted: 0, or the input"):
        finetune.forecast(CONFIG.with_changes(compute={"vocabulary_sample": 64}), {"model": ({},), "data": ({},)})
    with pytest.raises(ValueError, match="vocabulary_sample is for given answers; accepted with a rollout: 0"):
        FinetuneConfig(compute={"vocabulary_sample": 64}, rollout={"kind": "student"}, objectives={"forward_kl": 1.0})
    tempered = {"soft": {"divergence": "forward_kl", "target": {"temper": {"temperature": 2.0}}}}
    heavy = {"sharp": {"divergence": "forward_kl", "token_weight": {"confident": {"max_entropy_nats": 1.0}}}}
    for objectives in (tempered, heavy):
        with pytest.raises(ValueError, match="reads more than sums over the vocabulary"):
            FinetuneConfig.model_validate({"compute": {"vocabulary_sample": 64}, "objectives": objectives})
    mixed = {
        "half": {
            "divergence": "jensen_shannon",
            "target": {"mix": {"first": "teacher", "second": "labels", "share": 0.5}},
        }
    }
    accepted = FinetuneConfig.model_validate(
        {"compute": {"vocabulary_sample": 64}, "objectives": mixed | {"next_token": 1.0}}
    )
    assert accepted.compute.vocabulary_sample == 64


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


def fold(store: Store, base: ModelArtifact, adapter: AdapterArtifact) -> ModelArtifact:
    return merge.execute(MergeConfig(), MergeInputs(base=base, students=(adapter,)), store).artifact


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full", "last_blocks"])
def test_every_method_folds_into_a_plain_model_with_the_loss_it_was_kept_for(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, method: str
) -> None:
    adapter = train(store, pruned, recorded, method=method, rank=4, num_epochs=6, num_last_blocks=1)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    again = train(store, fold(store, pruned, adapter), recorded, max_steps=1, learning_rate=1e-9)
    assert curve(again, "heldout_forward_kl_nats")[0] == pytest.approx(min(heldout), abs=5e-3)


def test_trained_weights_that_are_the_bases_own_are_not_folded(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    adapter = train(store, pruned, recorded, max_steps=1, learning_rate=1e-30)
    with pytest.raises(ValueError, match="folding changed nothing"):
        fold(store, pruned, adapter)


@pytest.mark.parametrize("method", ["lora", "full", "last_blocks"])
def test_weights_learn_in_float32_on_a_bf16_base(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, method: str
) -> None:
    changes = {"precision": "bfloat16", "adapt_blocks": "after_cut", "learning_rate": 3e-3}
    adapter = train(store, pruned, recorded, method=method, rank=4, num_last_blocks=1, **changes)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    assert {value.dtype for value in weights(adapter).values()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extra gpu (#3)")
@pytest.mark.parametrize("quantized", ["nf4", "int8"])
def test_an_adapter_learns_on_a_quantized_base_and_folds_into_the_float_one(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, quantized: str
) -> None:
    adapter = train(store, pruned, recorded, method="lora", rank=4, quantized_base=quantized, num_epochs=6)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    assert load_model(fold(store, pruned, adapter).path, "auto").dtype == torch.float32


def test_several_data_sets_train_together_by_shares(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, recorded: DatasetArtifact, questions: DatasetArtifact
) -> None:
    config, inputs = RecordConfig(num_recorded=259, precision="float32"), RecordInputs(model=model, data=questions)
    answers = record.execute(config, inputs, store).artifact
    with pytest.raises(ValueError, match="shares has 1 numbers for 2 inputs of data"):
        finetune.forecast(CONFIG.with_changes(rows={"shares": [1.0]}), {"model": ({},), "data": ({}, {})})
    adapter = train(store, pruned, recorded, answers, shares=[0.5, 0.5], num_epochs=4)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.9 * heldout[0]


def test_stopping_on_quality_looks_at_right_answers(
    store: Store, pruned: ModelArtifact, questions: DatasetArtifact, prose: DatasetArtifact
) -> None:
    changes = {"objectives": {"next_token": 1.0}, "learn": "answers", "stop_on": "quality", "num_epochs": 8}
    adapter = train(store, pruned, questions, **changes)
    quality = curve(adapter, "heldout_quality")
    assert len(quality) >= 2 and all(0.0 <= value <= 1.0 for value in quality)
    with pytest.raises(ValueError, match="no held-out row has choices or a verifier"):
        train(store, pruned, prose, **changes)


def test_a_running_mean_of_the_weights_is_kept_instead(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    plain = train(store, pruned, recorded, num_epochs=3)
    averaged = train(store, pruned, recorded, num_epochs=3, average_decay=0.9)
    assert curve(plain, "train_forward_kl_nats") == curve(averaged, "train_forward_kl_nats"), (
        "the training itself is the same"
    )
    assert curve(plain, "heldout_forward_kl_nats")[-1] != curve(averaged, "heldout_forward_kl_nats")[-1]


def test_wrong_wishes_are_refused_in_one_line(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match="no removed block"):
        train(store, model, recorded, adapt_blocks="after_cut")
    with pytest.raises(ValueError, match="targets nope name no matrix"):
        train(store, pruned, recorded, method="lora", targets=["nope"])
    with pytest.raises(ValueError, match=r"adapt\.full\.quantized_base"):
        FinetuneConfig(adapt={"kind": "full", "quantized_base": "nf4"})
    with pytest.raises(ValueError, match="vocabulary mismatch: model 10, teacher 12 tokens"):
        finetune.forecast(CONFIG, {"model": ({"vocab_size": 10},), "data": ({},), "teacher": ({"vocab_size": 12},)})


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
