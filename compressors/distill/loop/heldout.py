"""Held-out evaluation: the losses on text that is not trained on, and whether packing rows changes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.loop.fixed_measure import measured_sum, on_given_text, with_measure
from attar.compressors.distill.loop.step_loss import StepLoss, TaughtBatch, taught_by
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.teachers.student import Student
from attar.compressors.models.adapted import mixed_precision


@dataclass(frozen=True)
class HeldoutLosses:
    """Held-out losses in nats a token. Of each objective as it is now, and the measure that evaluations are compared by (see fixed_measure)."""

    losses: dict[str, float]
    measure: float | None


@torch.no_grad()
def evaluate_heldout(trainer: Trainer, examples: Sequence[LearnedExample]) -> HeldoutLosses:
    """Evaluate held-out examples, in their given order. Objectives that need rollouts of the student say nothing about given text."""
    trainer.student.eval()
    student = trainer.plain_student
    now = on_given_text(trainer.reduction.at(trainer.clock(max(0, trainer.step - 1))))
    reduction, shares = with_measure(now, trainer.measure)
    if not reduction.objectives:
        return HeldoutLosses({}, None)
    sums = dict.fromkeys(reduction.objectives, 0.0)

    def taught_batches() -> Iterator[TaughtBatch]:
        limit, order = trainer.tokens_per_micro_batch, range(len(examples))
        for batch in trainer.modality.batches(examples, order, limit, has_teacher="teacher" in trainer.teacher_sources):
            yield TaughtBatch(batch, taught_by(trainer.teacher_sources, student))

    # every process evaluates the same rows: nothing is to be summed over them
    step = StepLoss.of(reduction, trainer.modality, taught_batches, None)
    for taught in taught_batches():
        with mixed_precision(student):
            _, part = step.loss(student, student, taught)
        for name, (loss_sum, _) in part.items():
            sums[name] += loss_sum
    means = {name: loss / step.num_terms[name] for name, loss in sums.items() if step.num_terms[name]}
    return HeldoutLosses({name: means[name] for name in now.objectives if name in means}, measured_sum(means, shares))


@torch.no_grad()
def packing_matches(student: Student, examples: Sequence[Example], tolerance: float) -> bool:
    """Say whether packing these examples gives the same logits as running each alone: some families attend across them."""
    student.eval()
    order = range(len(examples))
    packed = student.logits(collate(examples, order, is_packed=True))
    apart = student.logits(collate(examples, order, is_packed=False))
    scale = float(apart.abs().max().clamp(min=1e-6))
    return float((packed - apart).abs().max()) <= tolerance * scale
