"""A disk that fills while a stage writes: one clear line whatever library was writing, no half output, and what was done is gone on from."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable

import pytest
import torch

from attar.registry.artifacts.disk_space import DiskFullError
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.saved_steps import CHECKPOINT
from attar.stages.finetune.stage import finetune
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.process import one_line
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

FORK = multiprocessing.get_context("fork")
# as a full disk does, the kernel refuses what goes beyond this: less than the smallest of what the stages below write
LIMIT_BYTES = 40_000
TRAINING = {
    "schedule": {"num_epochs": 2, "tokens_per_step": 256},
    "compute": {"tokens_per_micro_batch": 256, "precision": "float32"},
    "checkpoints": {"every": 1},
}


def pruned(model: ModelArtifact, data: DatasetArtifact, store: Store) -> None:
    prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=model), store)


def exported(model: ModelArtifact, data: DatasetArtifact, store: Store) -> None:
    export.execute(ExportConfig(), ExportInputs(model=model, data=data), store)


def recorded(model: ModelArtifact, data: DatasetArtifact, store: Store) -> None:
    record.execute(RecordConfig(num_recorded=200), RecordInputs(model=model, data=data), store)


def trained(model: ModelArtifact, data: DatasetArtifact, store: Store) -> None:
    config = FinetuneConfig(adapt={"rank": 8}, objectives={"next_token": 1.0}, **TRAINING)
    finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store)


def taught_by_states(model: ModelArtifact, data: DatasetArtifact, store: Store) -> None:
    objective = {"objectives": {"forward_kl": 1.0}, "teacher": {"run_once": True}, "rows": {"learn": "all"}}
    config = FinetuneConfig(adapt={"rank": 2}, **objective, **TRAINING)
    finetune.execute(config, FinetuneInputs(model=model, data=(data,), teacher=model), store)


def on_a_full_disk(work: Callable[[], None], limit_bytes: int = LIMIT_BYTES) -> str:
    """Return how the work ended in a process of its own, in which no file may grow beyond the limit."""
    queue: multiprocessing.Queue = FORK.Queue()

    def try_it() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        torch.set_num_threads(
            1
        )  # as a node's process does: threads of a fork that ask for torch's pool first race for it
        try:
            work()
        except Exception as error:  # noqa: BLE001 - which one it is, is asked for
            queue.put((isinstance(error, DiskFullError), one_line(error)))
        else:
            queue.put((False, "it was written"))

    child = FORK.Process(target=try_it)
    child.start()
    is_refusal, message = queue.get(timeout=120)
    child.join()
    assert is_refusal, message
    return message


@pytest.mark.parametrize("work", [pruned, exported, recorded, trained, taught_by_states])
def test_whatever_library_writes_a_full_disk_is_one_clear_line(
    model: ModelArtifact, questions: DatasetArtifact, store: Store, work: Callable[..., None]
) -> None:
    message = on_a_full_disk(lambda: work(model, questions, store))
    assert (
        message.startswith("no space for the ")
        and f"artifact under {store.root}: " in message
        and " MB are free" in message
    )
    assert not list(store.root.glob("store/*/*")) and not list(store.root.glob("work/*"))


def test_a_training_that_finds_the_disk_full_goes_on_from_its_checkpoint(
    model: ModelArtifact, questions: DatasetArtifact, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attar.stages.finetune import training_run

    saved = training_run.TrainingRun._save_checkpoint

    def fills_later(run: training_run.TrainingRun) -> None:
        if run.trainer.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))
        saved(run)

    monkeypatch.setattr(training_run.TrainingRun, "_save_checkpoint", fills_later)
    message = on_a_full_disk(lambda: trained(model, questions, store), 10**9)
    assert message.endswith("; the same command goes on from what is done")
    monkeypatch.undo()
    [folder] = store.root.glob("work/*")
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, "work.json"}, (
        "no part of the checkpoint that failed"
    )
    trained(model, questions, store)
    assert not list(store.root.glob("work/*"))
