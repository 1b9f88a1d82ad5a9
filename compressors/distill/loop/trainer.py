"""The training loop over accelerate. It yields a record after each step; its state can be saved and restored exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.examples.packing import units
from attar.compressors.distill.examples.steps import Clock, Schedule, Steps
from attar.compressors.distill.loop.drawing import RolloutSource
from attar.compressors.distill.loop.fixed_measure import fixed_measure
from attar.compressors.distill.loop.modality import Modality
from attar.compressors.distill.loop.step_loss import StepLoss, TaughtBatch, taught_by
from attar.compressors.distill.losses.objective import projections_read
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.teacher_sources import OtherModel, TeacherSource
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.models.adapted import mixed_precision
from attar.compressors.models.sharded import is_sharded, local_state, sharded_state, whole
from attar.compressors.models.trained_weights import WeightAverage, beside, set_weights, trained_weights

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_on(device: torch.device) -> Accelerator:
    """Return what runs a training on a device, in all of its processes."""
    from accelerate import Accelerator  # a plan need not wait for it

    return Accelerator(cpu=device.type == "cpu")


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: losses in nats a token by objective, the gradient norm before clipping, and tokens learned."""

    step: int
    epoch: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    num_tokens: int
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class Trainer:
    """A student and everything that moves while it learns.

    `modality`: how examples become batches, and those views. `teacher`: a live one, where the examples carry no recorded one;
    `teacher_sources` says it in general. `rollouts`: what writes the sequences of each step anew; else the examples are learned as they are.
    `average`: a running mean of the weights, kept beside them. With several processes each takes its share of every step; a student in
    shards is left as it is, another is copied to each.
    """

    student: TrainedModel
    examples: Sequence[LearnedExample]
    steps: Steps
    reduction: Reduction
    modality: Modality
    accelerator: Accelerator
    teacher: TrainedModel | None = None
    average: WeightAverage | None = None
    step: int = 0
    teacher_sources: dict[ViewName, TeacherSource] = field(default_factory=dict)
    rollouts: RolloutSource | None = None

    def __post_init__(self) -> None:
        if self.teacher is not None:
            self.teacher_sources = {**self.teacher_sources, "teacher": OtherModel(self.teacher)}
        self.student.reads = projections_read(self.reduction.objectives.values())
        teacher = self.teacher_sources.get("teacher")
        if teacher is not None and teacher.own_model is not None:
            teacher.own_model.reads = self.student.reads
        trainable = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=self.schedule.learning_rate, weight_decay=self.schedule.weight_decay, fused=True
        )
        self.is_sharded = is_sharded(self.student)
        if self.is_sharded:
            self.optimizer = self.accelerator.prepare(optimizer)
        else:
            self.student, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.tokens_per_micro_batch = self.schedule.tokens_per_micro_batch

    @cached_property
    def measure(self) -> Reduction | None:
        """What held-out evaluations are compared by: the same at every step; None where nothing is."""
        moving: list[ViewName] = [name for name, source in self.teacher_sources.items() if source.moves]
        return fixed_measure(self.reduction, self.clock(max(0, self.num_steps - 1)), moving)

    @property
    def plain_student(self) -> TrainedModel:
        """The student without accelerate's wrapping."""
        return self.accelerator.unwrap_model(self.student)

    @property
    def schedule(self) -> Schedule:
        """How long training lasts and how fast it moves."""
        return self.steps.schedule

    @property
    def num_steps(self) -> int:
        """Steps of the whole schedule."""
        return len(self.steps)

    def clock(self, step: int) -> Clock:
        """Return where training is before a step."""
        epoch, position = divmod(step, self.steps.num_per_epoch)
        num_epochs = math.ceil(self.num_steps / self.steps.num_per_epoch)
        return Clock(step, self.num_steps, epoch, num_epochs, position == 0)

    def run(self) -> Iterator[StepRecord]:
        """Yield a record after every optimizer step, from the current step on. Save `state()` between steps to resume there."""
        while self.step < self.num_steps:
            epoch, chosen = self.steps.at(self.step)
            yield self._optimize(chosen, epoch)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs for the same weights bit for bit: trainable weights, optimizer, step, random state."""
        return {
            "step": self.step,
            "weights": trained_weights(self.plain_student),
            "average": None if self.average is None else self.average.weights,
            "teacher_sources": {name: source.weights for name, source in self.teacher_sources.items()},
            "tokens_per_micro_batch": self.tokens_per_micro_batch,
            "optimizer": local_state(self.optimizer.state_dict()),
            "random": torch.get_rng_state(),
            "device_random": None if self._is_cpu else torch.get_device_module().get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`. Where that comes from another device, what that device would have drawn is not what this one draws."""
        set_weights(self.plain_student, state["weights"])
        if self.average is not None:
            self.average.weights = beside(self.plain_student, state["average"])
        for name, source in self.teacher_sources.items():
            weights = (state.get("teacher_sources") or state["parties"])[name]
            source.weights = beside(self.plain_student, weights)
        self.tokens_per_micro_batch = state["tokens_per_micro_batch"]
        moved = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.load_state_dict(sharded_state(state["optimizer"], moved))
        torch.set_rng_state(state["random"])
        if not self._is_cpu and state["device_random"] is not None:
            torch.get_device_module().set_rng_state(state["device_random"])
        self.step = state["step"]

    @property
    def _is_cpu(self) -> bool:
        return self.accelerator.device.type == "cpu"

    def _optimize(self, chosen: Sequence[int], epoch: int) -> StepRecord:
        """Take one step over the chosen examples, in smaller micro-batches where memory does not suffice: the step stays the same."""
        clock = self.clock(self.step)
        for source in self.teacher_sources.values():
            source.advance(self.plain_student, clock)
        share = _Share.of(self.examples, chosen, self.accelerator)
        examples, order = self.examples, share.order
        if self.rollouts is not None:
            examples = self.rollouts.examples(self.plain_student, [self.examples[i] for i in order], clock)
            order = range(len(examples))
        while True:
            micro_batches = self._micro_batches(examples, order)
            try:
                losses = self._accumulate(micro_batches, clock, share.is_idle)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                is_smallest = len(micro_batches) == len(units(examples, order))
                if not _is_out_of_memory(error) or is_smallest or self.is_sharded:  # the others wait inside of a run
                    raise
                self.optimizer.zero_grad(set_to_none=True)
                self.tokens_per_micro_batch = max(1, self.tokens_per_micro_batch // 2)
        grad_norm, learning_rate = self._move(chosen)
        num_learned = sum(batch.num_positions for batch in micro_batches)
        facts = {} if self.rollouts is None else self.rollouts.facts()
        return StepRecord(self.step, epoch, losses, learning_rate, grad_norm, num_learned, facts)

    def _move(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Let the optimizer take its step; return (gradient norm, learning rate)."""
        trainable = [p for p in self.student.parameters() if p.requires_grad]
        learning_rate = self.schedule.rate_at(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm = float(whole(self.accelerator.clip_grad_norm_(trainable, self.schedule.max_grad_norm)))  # type: ignore[arg-type]
        if not math.isfinite(grad_norm):
            raise NotFiniteError(self.step + 1, chosen, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.plain_student)
        self.step += 1
        return grad_norm, learning_rate

    def _accumulate(self, micro_batches: Sequence[Any], clock: Clock, is_idle: bool) -> dict[str, float]:
        self.student.train()
        student, reduction = self.plain_student, self.reduction.at(clock)
        taught = [TaughtBatch(batch, taught_by(self.teacher_sources, student)) for batch in micro_batches]
        modality = self.modality.at(clock.step)
        step = StepLoss.of(reduction, modality, lambda: taught, self.accelerator, is_counted=not is_idle)
        sums = dict.fromkeys(reduction.objectives, 0.0)
        runs = [(batch, not is_idle) for batch in taught] + [(taught[0], False)] * self._num_missing(len(taught))
        for index, (batch, is_counted) in enumerate(runs):
            is_last = index == len(runs) - 1
            # gradients of several processes are averaged once, with the last part
            with nullcontext() if is_last else self.accelerator.no_sync(self.student):
                with mixed_precision(self.student):
                    loss, part = step.loss(self.student, student, batch)
                # averaged over processes, to be summed: each divides by the terms of all
                self.accelerator.backward(loss * (self.accelerator.num_processes if is_counted else 0.0))
            for name, (loss_sum, _) in part.items():
                sums[name] += loss_sum if is_counted else 0.0
        return step.means(sums, self.accelerator)

    def _num_missing(self, num_batches: int) -> int:
        """Return how many runs this process has less than another: in shards all run together, each asks the others for its weights."""
        if not self.is_sharded:
            return 0
        counts = self.accelerator.gather(torch.tensor([num_batches], device=self.accelerator.device))
        return int(counts.max()) - num_batches  # type: ignore[union-attr]

    def _micro_batches(self, examples: Sequence[Any], order: Sequence[int]) -> list[Any]:
        drawn, has_teacher = self.modality.at(self.step), "teacher" in self.teacher_sources
        return list(drawn.batches(examples, order, self.tokens_per_micro_batch, has_teacher=has_teacher))


@dataclass(frozen=True)
class _Share:
    """What this process takes of a step. An idle one, for which nothing is left, runs along at weight zero: the others wait for it."""

    order: list[int]
    is_idle: bool

    @staticmethod
    def of(examples: Sequence[LearnedExample], chosen: Sequence[int], accelerator: Accelerator) -> _Share:
        if accelerator.num_processes == 1:
            return _Share(list(chosen), False)
        parts = units(examples, chosen)
        own_parts = parts[accelerator.process_index :: accelerator.num_processes]
        return _Share([index for unit in (own_parts or parts[:1]) for index in unit], not own_parts)


class NotFiniteError(ValueError):
    """The gradient of a step is no number: training stops before it touches the weights."""

    def __init__(self, step: int, examples: Sequence[int], grad_norm: float) -> None:
        super().__init__(f"the gradient of step {step} is {grad_norm}")
        self.step, self.examples = step, list(examples)


def _is_out_of_memory(error: Exception) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
