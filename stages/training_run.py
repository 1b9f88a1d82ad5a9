"""One training from first step to best adapter: checkpoints, looks at the held-out rows, early stop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressors.distill.loop import StepRecord, Trainer, heldout_losses
from compressors.distill.packing import Example
from stages.progress import Metric, bar, emit, note

CHECKPOINT = "checkpoint.pt"


class TrainingRun:
    """Training with checkpoints, looks at the held-out rows, early stop and the best adapter so far."""

    def __init__(
        self,
        trainer: Trainer,
        heldout: Sequence[Example],
        workdir: Path,
        *,
        eval_every: int,
        checkpoint_every: int,
        patience: int,
    ) -> None:
        self.trainer, self.heldout = trainer, heldout
        self.eval_every, self.checkpoint_every, self.patience = eval_every, checkpoint_every, patience
        self.checkpoint = workdir / CHECKPOINT
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"loss": float("inf"), "step": 0, "weights": {}}
        self.num_worse = 0

    def resume(self) -> None:
        """Continue from the checkpoint of an interrupted run, or look at the held-out rows before the first step."""
        if not self.checkpoint.exists():
            self._look(0)
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        self.trainer.restore(saved["trainer"])
        self.best, self.num_worse = saved["best"], saved["num_worse"]
        for entry in saved["history"]:  # told again, so that the curve of a resumed run is whole
            self._record(Metric(**entry))
        note(f"continuing at step {self.trainer.step} of {self.trainer.num_steps}")

    def train(self) -> None:
        """Train to the end of the schedule or to the early stop."""
        counter = bar("training", self.trainer.num_steps, "steps", done=self.trainer.step)
        if self._is_over():
            return
        for record in self.trainer.run():
            self._report(record)
            counter.advance()
            is_last = record.step == self.trainer.num_steps
            if record.step % self.eval_every == 0 or is_last:
                self._look(record.step)
            if record.step % self.checkpoint_every == 0 or is_last or self._is_over():
                self._save_checkpoint()
            if self._is_over():
                note(f"stopped early at step {record.step}: no better held-out loss in {self.num_worse} looks")
                return

    def _is_over(self) -> bool:
        return bool(self.patience) and self.num_worse >= self.patience

    def _report(self, record: StepRecord) -> None:
        for name, loss in record.losses.items():
            self._record(Metric(f"train_{name}_nats", loss, record.step))
        self._record(Metric("learning_rate", record.learning_rate, record.step))
        self._record(Metric("grad_norm", record.grad_norm, record.step))

    def _look(self, step: int) -> None:
        losses = heldout_losses(
            self.trainer.model,
            self.heldout,
            self.trainer.objectives,
            tokens_per_batch=self.trainer.schedule.tokens_per_micro_batch,
            is_packed=self.trainer.is_packed,
            device=self.trainer.accelerator.device,
        )
        for name, loss in losses.items():
            self._record(Metric(f"heldout_{name}_nats", loss, step))
        total = sum(self.trainer.weights[name] * loss for name, loss in losses.items())
        # without held-out rows the last step is the best one there is
        if not losses or total < self.best["loss"]:
            self.best = {"loss": total, "step": step, "weights": self.trainer.state()["weights"]}
            self.num_worse = 0
        else:
            self.num_worse += 1

    def _record(self, entry: Metric) -> None:
        self.history.append(asdict(entry))
        emit(entry)

    def _save_checkpoint(self) -> None:
        state = {
            "trainer": self.trainer.state(),
            "best": self.best,
            "num_worse": self.num_worse,
            "history": self.history,
        }
        temporary = self.checkpoint.with_suffix(".new")
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.checkpoint)
