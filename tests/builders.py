"""Batches, views and losses as tests build them: a change of the objectives' protocol touches this file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch, Example, collate
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.loop.modality import CausalText, Modality
from attar.compressors.distill.loop.step_loss import StepLoss, TaughtBatch
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.distributions import TOKENS_PER_CHUNK, Distributions
from attar.compressors.distill.losses.hidden_states import StateViews
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, STATES, Objective, Whole
from attar.compressors.distill.losses.reduction import Reduction, Sums, combine, masked_sum
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.losses.views import Targets, TokenViews
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import TeacherSource
from attar.compressors.models.head import Entries, OutputHead


@dataclass(frozen=True)
class TableTeacher:
    """A teacher's outputs that are a table of logits, a row a token."""

    logits: Tensor
    states: Mapping[str, Tensor] = field(default_factory=dict)

    def logprobs(self, tokens: slice) -> Tensor:
        return self.logits[tokens].log_softmax(dim=-1)

    def over(self, entries: Entries) -> TableTeacher:
        return TableTeacher(self.logits[:, entries.ids] + entries.shift)


@dataclass(frozen=True)
class TableStudent:
    """A student whose forward pass gives a table of logits: its head is the identity."""

    vocab_size: int
    projections: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def head(self) -> OutputHead:
        return OutputHead(torch.eye(self.vocab_size))


def table_teachers(**tables: Tensor | None) -> Teachers:
    """Return outputs of teacher, past and anchor from tables of logits."""
    return Teachers(**{name: None if logits is None else TableTeacher(logits) for name, logits in tables.items()})


def terms_of(objective: Objective, logprobs: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return (loss at each token, zero where it does not count; which tokens count)."""
    terms = objective.terms(TokenViews(logprobs, targets))
    return torch.where(terms.mask, terms.values, 0.0), terms.mask


def summed_terms(
    objectives: Mapping[str, Objective], logprobs: Tensor, targets: Targets
) -> dict[str, tuple[Tensor, int]]:
    """Return (sum of its terms, how many count) of each objective, all tokens at once."""
    return {name: masked_sum(objective.terms(TokenViews(logprobs, targets))) for name, objective in objectives.items()}


def combined(
    objectives: Mapping[str, Objective],
    weights: Mapping[str, float],
    logprobs: Tensor,
    targets: Targets,
    num_terms: Mapping[str, int],
) -> Tensor:
    """Return the weighted loss, all tokens at once."""
    return combine(summed_terms(objectives, logprobs, targets), weights, num_terms)


def token_loss(
    reduction: Reduction,
    hidden: Tensor,
    head: OutputHead,
    targets: Targets,
    num_terms: Mapping[str, int],
    teacher: Any = None,
    *,
    past: Any = None,
    anchor: Any = None,
    projections: Mapping[str, Tensor] | None = None,
    tokens_per_chunk: int = TOKENS_PER_CHUNK,
    sample: VocabularySample | None = None,
) -> tuple[Tensor, Sums]:
    """Return the reduction's loss of tokens given by hidden states and a head, in chunks, and its sums."""
    teachers = Teachers(teacher, past, anchor)
    sequences = None if targets.stats is None else targets.stats.sequences
    states = StateViews({"hidden": hidden, **(projections or {})}, teachers.teacher_states, sequences)
    observed = {
        DISTRIBUTIONS: Distributions(hidden, head, targets, teachers, tokens_per_chunk, sample),
        STATES: Whole(states),
    }
    return reduction.loss(observed, num_terms)


def states_of(teacher: TeacherSource, student: Student, batch: Batch) -> Tensor:
    """Return a teacher's last hidden states at the learned tokens of a batch."""
    return teacher.speak(student, batch).states["hidden"]


@dataclass(frozen=True)
class OneBatch:
    """A step of a single batch, counted, for a student that is a table of logits."""

    step: StepLoss
    taught: TaughtBatch
    student: TableStudent

    @staticmethod
    def of(
        reduction: Reduction,
        examples: Sequence[Example],
        vocab_size: int,
        teachers: Teachers | None = None,
        tokens_per_chunk: int = TOKENS_PER_CHUNK,
    ) -> OneBatch:
        teachers = Teachers() if teachers is None else teachers
        modality = CausalText(is_packed=True, tokens_per_chunk=tokens_per_chunk)
        batch = collate(examples, range(len(examples)), is_packed=True)
        batch = batch if teachers.teacher is None else batch.taught_throughout()
        taught = TaughtBatch(batch, lambda batch: teachers)
        return OneBatch(StepLoss.of(reduction, modality, lambda: [taught], None), taught, TableStudent(vocab_size))

    def loss(self, logits: Tensor) -> tuple[Tensor, Sums]:
        """Return the step's loss of these logits, by the path that training takes, and its sums."""
        return self.step.loss(lambda batch: logits, self.student, self.taught)  # type: ignore[arg-type]


def schedule_of(num_steps: int, learning_rate: float = 1e-2, tokens_per_micro_batch: int = 1000) -> Schedule:
    """Return a plain schedule: one step an epoch, a constant learning rate, no decay and no clipping."""
    return Schedule(
        num_epochs=num_steps,
        max_steps=0,
        decay="none",
        learning_rate=learning_rate,
        warmup_fraction=0.0,
        tokens_per_step=10_000,
        tokens_per_micro_batch=tokens_per_micro_batch,
        max_grad_norm=1e9,
        weight_decay=0.0,
    )


def trainer_of(
    student: Any,
    examples: Sequence[Any],
    steps: Steps,
    reduction: Reduction,
    accelerator: Accelerator | None = None,
    **more: Any,
) -> Trainer:
    """Return a trainer on the CPU; without a modality it is packed causal text."""
    modality: Modality = more.pop("modality", None) or CausalText(is_packed=True, sample=more.pop("sample", None))
    return Trainer(student, examples, steps, reduction, modality, accelerator or Accelerator(cpu=True), **more)
