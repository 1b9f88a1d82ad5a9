"""One training from first step to best weights: checkpoints, held-out evaluation, early stop, and the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attar.compressors.adapt.freeze import freeze_tensors
from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.loop.fixed_measure import is_learned
from attar.compressors.distill.loop.heldout import evaluate_heldout
from attar.compressors.distill.loop.trainer import NotFiniteError, StepRecord, Trainer
from attar.compressors.models.sharded import gather_trained
from attar.compressors.models.trained_weights import HasParameters, set_weights, trained_weights
from attar.stages.artifacts.dataset.rows import Row, Split
from attar.stages.finetune.heldout_quality import heldout_quality
from attar.stages.finetune.plan import Checkpoints, Evaluations
from attar.stages.finetune.saved_steps import SavedSteps
from attar.stages.finetune.time_budget import TimeBudget
from attar.stages.finetune.training_rows import is_checkable
from attar.stages.runtime.progress import Metric, bar, emit, note

M = TypeVar("M", bound=HasParameters)
# Longest answer that an evaluation by quality waits for.
QUALITY_NEW_TOKENS = 256
# What evaluations are compared by, where it is not the weighted sum of the objectives as they are: see compressors/distill/loop/fixed_measure.py.
MEASURE = "heldout_measure_nats"


class EvaluatedRows(Protocol):
    """What a run asks of rows of any kind. Examples to evaluate, the rows they are of and their parts, the names of those learned."""

    @property
    def heldout(self) -> Sequence[LearnedExample]: ...

    @property
    def heldout_rows(self) -> Sequence[Row]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def evaluated_parts(self) -> Sequence[Split]: ...


class TrainingRun:
    """Training with checkpoints, held-out evaluation, early stop and the best weights so far."""

    def __init__(
        self,
        trainer: Trainer,
        rows: EvaluatedRows,
        tokenizer: Any,
        workdir: Path,
        *,
        heldout: Evaluations,
        checkpoints: Checkpoints,
        max_minutes: float = 0.0,
    ) -> None:
        self.heldout, self.checkpoints = heldout, checkpoints
        self.trainer, self.rows, self.tokenizer = trainer, rows, tokenizer
        self.checkable = [row for row in rows.heldout_rows if is_checkable(row)]
        self.saved_steps = SavedSteps(workdir, trainer.accelerator)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"score": [float("inf")], "step": 0, "weights": {}}
        self.num_worse = 0
        self._saved_at = time.monotonic()
        self.budget = TimeBudget(max_minutes, trainer.steps.num_per_epoch)

    @property
    def student(self) -> Any:
        """The student without accelerate's wrapping."""
        return self.trainer.accelerator.unwrap_model(self.trainer.student)

    def resume(self) -> None:
        """Continue from the checkpoint of an interrupted run, or evaluate the held-out rows before the first step."""
        saved = self.saved_steps.read()
        if saved is None:
            self._evaluate(0)
            return
        self.trainer.restore(saved["trainer"])
        self.best, self.num_worse = saved["best"], saved["num_worse"]
        self.budget.seconds, self.budget.is_used_up = saved.get("budget", (0.0, False))
        for entry in saved["history"]:  # told again, so that the curve of a resumed run is whole
            self._record(Metric(**entry))
        note(f"continuing at step {self.trainer.step} of {self.trainer.num_steps}")

    def train(self) -> None:
        """Train to the end of the schedule or to the early stop. Raises ValueError for a step that gives no number."""
        counter = bar("training", self.trainer.num_steps, "steps", done=self.trainer.step)
        self._tell_measure()
        if self._is_over():
            return
        try:
            for record in self.trainer.run():
                counter.advance()
                self._after(record)
                if self._is_over():
                    note(
                        f"stopped early at step {record.step}: {self.budget.why or f'nothing better in {self.num_worse} looks'}"
                    )
                    return
        except NotFiniteError as error:
            rows = ", ".join(sorted({self.rows.ids[index] for index in error.examples})[:8])
            self._save_checkpoint()  # the step never reached the weights: they are the last good ones
            path = self.saved_steps.path(self.trainer.step)
            raise ValueError(
                f"{error} (rows {rows}); the weights of step {self.trainer.step} are kept in {path}; "
                "lower learning_rate or set precision to float32"
            ) from error

    def gather(self) -> None:
        """Put the best weights into the student, whole: of shards every process gives its part, and none trains on."""
        set_weights(self.student, self.best["weights"])
        gather_trained(self.student)
        self.best["weights"] = trained_weights(self.student, "cpu")

    def _tell_measure(self) -> None:
        if not self.best["score"]:
            has_policy = self.trainer.measure is None and bool(self.rows.heldout)
            why = "given text says nothing of a policy loss" if has_policy else "no held-out row has a loss"
            cure = "; stop_on: quality judges by answers" if has_policy else ""
            if self.heldout.patience or has_policy:
                note(
                    f"nothing to judge by, as {why}: patience is {self.heldout.patience}, but training goes to its last step, whose "
                    f"weights are kept{cure}"
                )
        elif not is_learned(self.trainer.measure, self.trainer.reduction):
            note(
                f"the objective changes while it is learned: evaluations are compared by {MEASURE}, its last form toward what does not move"
            )

    def _after(self, record: StepRecord) -> None:
        self._report(record)
        if not (is_last := record.step == self.trainer.num_steps):
            self.budget.after(record.step)
            is_last = self.budget.is_used_up = self.saved_steps.agreed(self.budget.is_used_up)
        if record.step % self.heldout.every == 0 or is_last:
            self._evaluate(record.step)
        every = self.checkpoints.every
        is_due = self.saved_steps.agreed(time.monotonic() - self._saved_at >= 60.0 * self.checkpoints.minutes)
        if is_due or is_last or self._is_over() or (every and record.step % every == 0):
            self._save_checkpoint()

    def _is_over(self) -> bool:
        return self.budget.is_used_up or (bool(self.heldout.patience) and self.num_worse >= self.heldout.patience)

    def _report(self, record: StepRecord) -> None:
        for name, loss in record.losses.items():
            self._record(Metric(f"train_{name}_nats", loss, record.step))
        self._record(Metric("learning_rate", record.learning_rate, record.step))
        self._record(Metric("grad_norm", record.grad_norm, record.step))
        for name, value in record.facts.items():
            self._record(Metric(name, value, record.step))

    def _evaluate(self, step: int) -> None:
        """Judge the weights of now (their running mean where one is kept) on the held-out rows."""
        average, own = self.trainer.average, {}
        if average is not None:
            own = trained_weights(self.student)
            set_weights(self.student, average.weights)
        evaluation = evaluate_heldout(self.trainer, self.rows.heldout)
        self._refuse_no_numbers(evaluation.losses, step)
        for name, loss in evaluation.losses.items():
            self._record(Metric(f"heldout_{name}_nats", loss, step))
        if evaluation.measure is not None and not is_learned(self.trainer.measure, self.trainer.reduction):
            self._record(Metric(MEASURE, evaluation.measure, step))
        score = [] if evaluation.measure is None else [evaluation.measure]
        if self.heldout.stop_on == "quality":
            quality = heldout_quality(self.trainer, self.checkable, self.tokenizer, QUALITY_NEW_TOKENS)
            self._record(Metric("heldout_quality", quality, step))
            score = [-quality, *score]
        score = self.saved_steps.agreed(score)
        # with nothing to judge by, the last step is the best one there is
        if not score or score < self.best["score"]:
            self.best = {"score": score, "step": step, "weights": trained_weights(self.student, "cpu")}
            self.num_worse = 0
        else:
            self.num_worse += 1
        if average is not None:
            set_weights(self.student, own)

    def _refuse_no_numbers(self, losses: dict[str, float], step: int) -> None:
        """Raise ValueError for a held-out loss that is NaN or infinite: what began well would go on to the end, and a search keep it."""
        if wrong := [f"{name} {loss}" for name, loss in losses.items() if not math.isfinite(loss)]:
            raise ValueError(
                f"step {step}: held-out loss {', '.join(wrong)} is no number; lower learning_rate or set precision to float32"
            )

    def _record(self, entry: Metric) -> None:
        self.history.append(asdict(entry))
        emit(entry)

    def _save_checkpoint(self) -> None:
        state = {
            "trainer": self.trainer.state(),
            "best": self.best,
            "num_worse": self.num_worse,
            "budget": (self.budget.used(), self.budget.is_used_up),
            "history": self.history,
        }
        self.saved_steps.write(state, self.trainer.step)
        self._saved_at = time.monotonic()


def freeze_named(model: M, patterns: Sequence[str]) -> M:
    """Return a student with tensors frozen by their names, and tell how many. Raises ValueError as `freeze_tensors` does."""
    if patterns:
        num_learned = sum(parameter.requires_grad for parameter in model.parameters())
        note(f"{len(freeze_tensors(model, patterns))} of {num_learned} tensors stay as they are")
    return model
