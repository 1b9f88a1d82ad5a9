"""A training that cannot go on: a step that gives no number, a teacher whose ids mean other tokens."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.adapters import MergeAdaptersConfig, MergeAdaptersInputs, merge_adapters
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.stage import MergeInputs, merge
from attar.stages.runtime.progress import Note, listen

TRAINING = {"tokens_per_step": 256, "tokens_per_micro_batch": 256, "precision": "float32", "num_epochs": 4}


def test_a_step_that_gives_no_number_is_told_with_its_rows_and_the_weights_before_it_are_kept(
    model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    config = FinetuneConfig(
        objectives={"next_token": 1.0},
        schedule={"learning_rate": 1e30, "warmup_fraction": 0.0},
        heldout={"every": 1000},
        **TRAINING,
    )
    with pytest.raises(ValueError, match=r"^the gradient of step 2 is nan \(rows ") as raised:
        finetune.execute(config, FinetuneInputs(model=model, data=(questions,)), store)
    match = re.fullmatch(
        r".* \(rows (.*)\); the weights of step 1 are kept in (.*); lower learning_rate or .*", str(raised.value)
    )
    assert match is not None
    rows = {json.loads(line)["id"] for line in (questions.path / "rows.jsonl").read_text().splitlines()}
    assert set(match[1].split(", ")) <= rows
    checkpoint = torch.load(match[2], weights_only=True)
    assert checkpoint["trainer"]["step"] == 1 and checkpoint["trainer"]["weights"]
    assert all(weight.isfinite().all() for weight in checkpoint["trainer"]["weights"].values())


def test_minutes_that_are_too_few_for_one_pass_are_refused_and_enough_end_behind_a_pass(
    model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    options = TRAINING | {"tokens_per_step": 64, "num_epochs": 400}
    inputs = FinetuneInputs(model=model, data=(questions,))
    too_few = FinetuneConfig(schedule={"max_minutes": 1e-5}, **options)
    with pytest.raises(
        ValueError, match=r"^schedule.max_minutes is 1e-05, but one pass of \d+ steps takes about .* minutes; accepted"
    ):
        finetune.execute(too_few, inputs, store)
    notes: list[str] = []
    enough = FinetuneConfig(schedule={"max_minutes": 0.02}, heldout={"every": 1000, "patience": 0}, **options)
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        student = finetune.execute(enough, inputs, store).artifact
    [stop] = [note for note in notes if note.startswith("stopped early at step")]
    assert stop == f"stopped early at step {student.facts['num_steps']}: another pass does not fit into 0.02 minutes"


def test_a_look_that_gives_no_number_ends_the_training(
    model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    """Without it the state from before would be kept as if all were well: a search would take the trial for a finished one."""
    config = FinetuneConfig(
        objectives={"next_token": 1.0},
        schedule={"learning_rate": 1e30, "warmup_fraction": 0.0},
        heldout={"every": 1},
        **TRAINING,
    )
    with pytest.raises(ValueError, match=r"^step 1: held-out loss next_token (nan|inf) is no number; lower learning"):
        finetune.execute(config, FinetuneInputs(model=model, data=(questions,)), store)


def test_a_teacher_whose_ids_mean_other_tokens_is_refused(
    model: ModelArtifact, questions: DatasetArtifact, store: Store, tmp_path: Path
) -> None:
    # a manifest says where it belongs
    folder = tmp_path / "other" / model.path.parents[1].name / model.path.parents[0].name
    other = shutil.copytree(model.path.parent, folder) / "content"
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    names = list(vocabulary)
    tokenizer["model"]["vocab"] = dict(zip(names, [vocabulary[name] for name in names[1:] + names[:1]], strict=True))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    teacher = ModelArtifact(other, model.facts, "other", "other")
    config = FinetuneConfig(objectives={"forward_kl": 1.0}, **TRAINING)
    with pytest.raises(
        ValueError, match=r"vocabulary mismatch: teacher gives 25\d of 259 tokens another id, '.+' for one"
    ):
        finetune.execute(config, FinetuneInputs(model=model, data=(questions,), teacher=teacher), store)


def test_a_training_that_never_beats_its_start_says_so_and_is_no_student(
    model: ModelArtifact, questions: DatasetArtifact, store: Store
) -> None:
    """The kept adapter is all zero: the merge used to end in "folding changed nothing", which says not why."""
    inputs = FinetuneInputs(model=model, data=(questions,))
    config = FinetuneConfig(
        schedule={"learning_rate": 1e-30, "warmup_fraction": 0.0}, heldout={"every": 1, "patience": 2}, **TRAINING
    )
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        stuck = finetune.execute(config, inputs, store).artifact
    assert stuck.facts["best_step"] == 0 and stuck.facts["num_steps"] == 2
    assert any(note.startswith("warning: training never beat its start: no evaluation was better") for note in notes)
    moved = finetune.execute(FinetuneConfig(schedule={"learning_rate": 1e-2}, **TRAINING), inputs, store).artifact
    assert moved.facts["best_step"] > 0
    refusal = rf"training of adapter {stuck.fingerprint[:12]} never beat its start \(2 steps\)"
    with pytest.raises(ValueError, match=refusal):
        merge.execute(MergeConfig(method="fold"), MergeInputs(base=model, students=(stuck,)), store)
    with pytest.raises(ValueError, match=refusal):  # beside another it would halve what that one learned
        merge_adapters.execute(
            MergeAdaptersConfig(method="linear"), MergeAdaptersInputs(adapters=(moved, stuck)), store
        )
