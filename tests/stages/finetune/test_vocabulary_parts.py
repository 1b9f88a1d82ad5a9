"""Distillation over part of the vocabulary."""

from __future__ import annotations

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import listen
from tests.stages.finetune.recovered import CONFIG, curve, train


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
        if run.saved_steps.path(0).exists():
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
