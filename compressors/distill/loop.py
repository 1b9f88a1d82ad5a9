"""The training loop: plain steps over accelerate, yielding a record after each, with a state that can be saved and restored exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from compressors.distill.average import WeightAverage, set_weights, trained_weights
from compressors.distill.objectives import Objective, Targets
from compressors.distill.packing import Batch, Example, batches, collate
from compressors.distill.reduction import LiveTeacher, Reduction, Sums
from compressors.distill.steps import Schedule, Steps
from compressors.distill.student import Student, mixed_precision


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: losses in nats a token by objective, the gradient norm before clipping, and tokens learned."""

    step: int
    epoch: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    num_tokens: int


@dataclass
class Trainer:
    """A student and everything that moves while it learns.

    `is_packed`: see packing.Batch; check with `packing_matches` first. `teacher`: a live one, where the examples carry no recorded
    one. `average`: a running mean of the weights, kept beside them.
    """

    student: Student
    examples: Sequence[Example]
    steps: Steps
    reduction: Reduction
    is_packed: bool
    accelerator: Accelerator
    teacher: Student | None = None
    average: WeightAverage | None = None
    step: int = 0

    def __post_init__(self) -> None:
        trainable = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=self.schedule.learning_rate, weight_decay=self.schedule.weight_decay, fused=True
        )
        self.student, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.tokens_per_micro_batch = self.schedule.tokens_per_micro_batch

    @property
    def schedule(self) -> Schedule:
        """How long training lasts and how fast it moves."""
        return self.steps.schedule

    @property
    def num_steps(self) -> int:
        """Steps of the whole schedule."""
        return len(self.steps)

    def run(self) -> Iterator[StepRecord]:
        """Yield a record after every optimizer step, from the current step on. Save `state()` between steps to resume there."""
        while self.step < self.num_steps:
            epoch, chosen = self.steps.at(self.step)
            yield self._optimize(chosen, epoch)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs for the same weights bit for bit: trainable weights, optimizer, step, random state."""
        return {
            "step": self.step,
            "weights": trained_weights(self.accelerator.unwrap_model(self.student)),
            "average": None if self.average is None else self.average.weights,
            "tokens_per_micro_batch": self.tokens_per_micro_batch,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "device_random": None if self._is_cpu else torch.get_device_module().get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        set_weights(self.accelerator.unwrap_model(self.student), state["weights"])
        if self.average is not None:
            self.average.weights = state["average"]
        self.tokens_per_micro_batch = state["tokens_per_micro_batch"]
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if not self._is_cpu:
            torch.get_device_module().set_rng_state(state["device_random"])
        self.step = state["step"]

    @property
    def _is_cpu(self) -> bool:
        return self.accelerator.device.type == "cpu"

    def _optimize(self, chosen: Sequence[int], epoch: int) -> StepRecord:
        """Take one step over the chosen examples, in smaller micro-batches where memory does not suffice: the step stays the same."""
        while True:
            micro_batches = self._micro_batches(chosen)
            try:
                losses = self._accumulate(micro_batches)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or len(micro_batches) == len(chosen):
                    raise
                self.optimizer.zero_grad(set_to_none=True)
                self.tokens_per_micro_batch = max(1, self.tokens_per_micro_batch // 2)
        trainable = [p for p in self.student.parameters() if p.requires_grad]
        learning_rate = self.schedule.rate_at(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm = float(self.accelerator.clip_grad_norm_(trainable, self.schedule.max_grad_norm))  # type: ignore[arg-type]
        if not math.isfinite(grad_norm):
            raise NotFiniteError(self.step + 1, chosen, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.student)
        self.step += 1
        num_learned = sum(len(batch.next_ids) for batch in micro_batches)
        return StepRecord(self.step, epoch, losses, learning_rate, grad_norm, num_learned)

    def _accumulate(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        self.student.train()
        num_tokens = {name: self._num_spoken(one, micro_batches) for name, one in self.reduction.objectives.items()}
        losses = dict.fromkeys(num_tokens, 0.0)
        for batch in micro_batches:
            with mixed_precision(self.student):
                loss, sums = batch_loss(self.student, batch, self.reduction, num_tokens, self.teacher)
            self.accelerator.backward(loss)
            for name, (loss_sum, _) in sums.items():
                losses[name] += loss_sum / max(num_tokens[name], 1)
        return losses

    def _num_spoken(self, objective: Objective, micro_batches: Sequence[Batch]) -> int:
        if not objective.uses_teacher or self.teacher is not None:
            return sum(len(batch.next_ids) for batch in micro_batches)
        return sum(int(batch.has_teacher.sum()) for batch in micro_batches if batch.has_teacher is not None)

    def _micro_batches(self, chosen: Sequence[int]) -> list[Batch]:
        limit = self.tokens_per_micro_batch
        return list(batches(self.examples, tokens_per_batch=limit, order=chosen, is_packed=self.is_packed))


class NotFiniteError(ValueError):
    """The gradient of a step is no number: training stops before it touches the weights."""

    def __init__(self, step: int, examples: Sequence[int], grad_norm: float) -> None:
        super().__init__(f"the gradient of step {step} is {grad_norm}")
        self.step, self.examples = step, list(examples)


@torch.no_grad()
def heldout_losses(trainer: Trainer, examples: Sequence[Example]) -> dict[str, float]:
    """Return the mean loss in nats a token of each objective over held-out examples, in their given order."""
    trainer.student.eval()
    totals = dict.fromkeys(trainer.reduction.objectives, 0.0)
    counts = dict.fromkeys(totals, 0)
    limit, order = trainer.tokens_per_micro_batch, range(len(examples))
    for batch in batches(examples, tokens_per_batch=limit, order=order, is_packed=trainer.is_packed):
        with mixed_precision(trainer.student):
            _, sums = batch_loss(trainer.student, batch, trainer.reduction, dict.fromkeys(totals, 1), trainer.teacher)
        for name, (loss_sum, num_tokens) in sums.items():
            totals[name] += loss_sum
            counts[name] += num_tokens
    return {name: totals[name] / counts[name] for name in totals if counts[name]}


@torch.no_grad()
def packing_matches(student: Student, examples: Sequence[Example], tolerance: float) -> bool:
    """True when packing these examples gives the same logits as running each alone: some families attend across them."""
    student.eval()
    order = range(len(examples))
    packed = student.logits(collate(examples, order, is_packed=True))
    apart = student.logits(collate(examples, order, is_packed=False))
    scale = float(apart.abs().max().clamp(min=1e-6))
    return float((packed - apart).abs().max()) <= tolerance * scale


def batch_loss(
    student: nn.Module, batch: Batch, reduction: Reduction, num_tokens: Mapping[str, int], teacher: Student | None
) -> tuple[Tensor, Sums]:
    """Return the loss of one batch and its sums; see Reduction.loss. A live teacher reads the same tokens, without gradient."""
    live = None
    if teacher is not None:
        with torch.no_grad():
            live = LiveTeacher(teacher(replace(batch, prefix=None)), teacher.head)
    hidden = student(batch)
    recorded = (batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher)
    if live is not None:
        recorded = (None, None, None)
    targets = Targets(
        batch.next_ids.to(hidden.device), *(None if part is None else part.to(hidden.device) for part in recorded)
    )
    return reduction.loss(hidden, student.head, targets, num_tokens, live)  # type: ignore[arg-type]


def _is_out_of_memory(error: Exception) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
