"""A training from its first step to the weights it keeps: what stops it, when it writes checkpoints, and what the running mean is a mean of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.models.trained_weights import trained_weights
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.finetune import training_run
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.kept_weights import WEIGHTS_FILE, save_adapter
from attar.stages.finetune.objective_spec import ObjectiveSpec
from attar.stages.finetune.plan import TrainingPlan, adaptation_of
from attar.stages.finetune.stage import build_run, finetune
from attar.stages.finetune.training_run import MEASURE, TrainingRun
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.runtime.progress import Metric, Note, listen

# The learning rate never falls, so that the first steps are the same however many follow.
CONFIG = FinetuneConfig(
    adapt={"kind": "full"},
    objectives={"next_token": 1.0},
    schedule={
        "num_epochs": 100,
        "max_steps": 12,
        "learning_rate": 1e-3,
        "decay": "none",
        "warmup_fraction": 0.0,
        "tokens_per_step": 512,
    },
    compute={"tokens_per_micro_batch": 512, "precision": "float32"},
    heldout={"every": 2, "patience": 2},
)


def train(store: Store, model: ModelArtifact, data: DatasetArtifact, **changes) -> AdapterArtifact:
    config = CONFIG.with_changes(**changes)
    return finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact


def built(model: ModelArtifact, data: DatasetArtifact, workdir: Path, **changes) -> TrainingRun:
    inputs = FinetuneInputs(model=model, data=(data,))
    return build_run(TrainingPlan.of(CONFIG.with_changes(**changes), inputs), inputs, workdir)


def weights(adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    return load_file(adapter.path / WEIGHTS_FILE)


def curve(adapter: AdapterArtifact, name: str) -> dict[int, float]:
    lines = (adapter.path / "records" / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["value"] for entry in map(json.loads, lines) if entry["name"] == name}


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("planted", "best_step", "num_steps"),
    [
        ({0: 0.25, 2: 0.5, 4: 0.75, 6: 0.5, 8: 0.25}, 4, 8),
        # of evaluations equally right that of lower loss is the better: this one never stops
        (dict.fromkeys(range(0, 13, 2), 0.5), 12, 12),
        ({0: 0.5, 2: 0.25, 4: 0.25}, 0, 4),
    ],
    ids=["rises and falls", "stays", "falls"],
)
def test_falling_quality_stops_a_training_whose_loss_still_falls(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    monkeypatch: pytest.MonkeyPatch,
    planted: dict[int, float],
    best_step: int,
    num_steps: int,
) -> None:
    monkeypatch.setattr(training_run, "heldout_quality", lambda trainer, *args: planted[trainer.step])
    by_quality = train(store, model, questions, stop_on="quality")
    losses = list(curve(by_quality, "heldout_next_token_nats").values())
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses), "the loss falls all along"
    assert curve(by_quality, "heldout_quality") == planted
    assert by_quality.facts["best_step"] == best_step and by_quality.facts["num_steps"] == num_steps
    assert by_quality.facts["heldout_quality"] == planted[best_step]
    by_loss = train(store, model, questions)
    assert by_loss.facts["best_step"] == by_loss.facts["num_steps"] == CONFIG.schedule.max_steps, (
        "no reason to stop in the loss"
    )
    if best_step:
        ended_there = train(store, model, questions, max_steps=best_step, patience=0)
        assert ended_there.facts["best_step"] == best_step and is_same(weights(by_quality), weights(ended_there))
    assert is_same(weights(by_quality), weights(by_loss)) == (best_step == CONFIG.schedule.max_steps)


class Clock:
    """Stands still between the steps of a training."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("minutes", "every", "expected"),
    [
        (5.0, 0, [4, 8, 12]),  # at 90 seconds a step, the first step end at or after five minutes since the last one
        (6.0, 0, [4, 8, 12]),  # six minutes are over with the fourth step, and not only after it
        (1.5, 0, list(range(1, 13))),
        (60.0, 0, [12]),
        (5.0, 3, [3, 6, 9, 12]),  # each checkpoint, whatever its reason, sets the time back
        (3.0, 5, [2, 4, 5, 7, 9, 10, 12]),
    ],
)
def test_checkpoints_are_written_at_the_minutes_asked_for_and_at_no_other_step(
    model: ModelArtifact,
    questions: DatasetArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    every: int,
    expected: list[int],
) -> None:
    clock, steps_written = Clock(), []
    monkeypatch.setattr(training_run, "time", clock)
    run = built(model, questions, tmp_path, checkpoint_minutes=minutes, checkpoint_every=every, eval_every=100)

    def note_file() -> None:
        if run.saved_steps.path(0).exists():
            step = torch.load(run.saved_steps.path(0), weights_only=True)["trainer"]["step"]
            steps_written.extend([step] if steps_written[-1:] != [step] else [])

    def after_a_step(event: object) -> None:
        if isinstance(event, Metric) and event.name == "grad_norm":
            note_file()  # the checkpoint of this step is not yet due: it is judged after the report
            clock.seconds += 90.0

    run.resume()
    with listen(after_a_step):
        run.train()
    note_file()
    assert steps_written == expected


def test_the_weights_that_are_saved_are_the_running_mean(
    model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    decay = 0.75
    run = built(model, questions, tmp_path, average_decay=decay, patience=0, eval_every=4)
    mean = trained_weights(run.student)
    run.resume()
    for record in run.trainer.run():
        for name, value in trained_weights(run.student).items():
            mean[name] = decay * mean[name] + (1.0 - decay) * value
        run._after(record)
    adapter = save_adapter(run, adaptation_of(CONFIG.adapt, model.facts), model, tmp_path / "content")
    assert adapter.facts["best_step"] == CONFIG.schedule.max_steps
    saved = {f"model.{name}": value for name, value in weights(adapter).items()}
    assert saved.keys() == mean.keys()
    own = torch.load(run.saved_steps.path(0), weights_only=True)["trainer"]["weights"]
    for name, value in saved.items():
        # lerp and the sum above round apart in float32, twelve times
        torch.testing.assert_close(value, mean[name], atol=1e-6, rtol=1e-5)
    apart = max(float((saved[name] - own[name]).abs().max()) for name in saved)
    assert apart > 1e-4, "the last step's own weights are others, a hundred tolerances away"


def ingested(store: Store, questions: DatasetArtifact, **options) -> DatasetArtifact:
    """Bring the file of the questions in once more."""
    config = IngestDataConfig(source=str(questions.facts["source"]), **options)
    return ingest_data.execute(config, NoInputs(), store).artifact


def test_data_without_training_rows_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    no_training = ingested(store, questions, max_rows=1, heldout_fraction=0.9)  # of one row, one
    with pytest.raises(ValueError, match="^the data has no training rows$"):
        train(store, model, no_training)


@pytest.mark.parametrize(("patience", "is_told"), [(2, True), (0, False)])
def test_an_early_stop_with_nothing_to_judge_by_is_said_and_the_last_step_is_kept(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, patience: int, is_told: bool
) -> None:
    no_heldout = ingested(store, questions, heldout_fraction=0.0)
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        adapter = train(store, model, no_heldout, patience=patience)
    assert adapter.facts["best_step"] == adapter.facts["num_steps"] == CONFIG.schedule.max_steps
    warnings = [note for note in notes if note.startswith("nothing to judge by, as no held-out row has a loss")]
    assert [note.partition(": ")[2] for note in warnings] == (
        ["patience is 2, but training goes to its last step, whose weights are kept"] if is_told else []
    )
    assert "kept the weights of step 12" in notes, "and no held-out loss, which nobody measured"


def test_an_early_stop_that_has_held_out_rows_says_nothing_of_it(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        train(store, model, questions, max_steps=2)
    assert not any("to judge by" in note for note in notes)
    assert any(note.startswith("kept the weights of step 2 (held-out loss ") for note in notes)


def test_a_second_stage_that_reads_higher_is_not_thrown_away(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    """Jeffreys' divergence is forward KL and more: compared as they are, no evaluation of the second stage beats the last of the first."""
    source = IngestModelConfig(source="random:llama?num_blocks=4&hidden_size=64&seed=1")
    teacher = ingest_model.execute(source, NoInputs(), store).artifact
    switch = {"switch_divergence": {"to": "jeffreys", "at_fraction": 0.5}}
    objectives = {"own": ObjectiveSpec(divergence="forward_kl", schedule=switch)}
    config = CONFIG.with_changes(objectives=objectives, heldout={"patience": 0}, schedule={"learning_rate": 3e-4})
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        inputs = FinetuneInputs(model=model, data=(questions,), teacher=teacher)
        adapter = finetune.execute(config, inputs, store).artifact
    shown, compared = curve(adapter, "heldout_own_nats"), curve(adapter, MEASURE)
    assert min(shown, key=lambda step: shown[step]) <= 0.5 * CONFIG.schedule.max_steps, (
        "as they are, the first stage reads least"
    )
    assert (
        adapter.facts["best_step"] == min(compared, key=lambda step: compared[step]) > 0.5 * CONFIG.schedule.max_steps
    )
    assert compared[CONFIG.schedule.max_steps] == shown[CONFIG.schedule.max_steps]
    assert any(note.startswith("the objective changes while it is learned") for note in notes)
