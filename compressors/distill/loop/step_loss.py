"""The loss of one optimizer step in parts. What all its micro-batches and processes share is counted first, then each part is summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attar.compressors.distill.loop.modality import Means, Modality
from attar.compressors.distill.losses.objective import MeanOne
from attar.compressors.distill.losses.reduction import Reduction, Sums
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.distill.teachers.teacher_sources import TeacherSource
from attar.compressors.distill.teachers.trained_model import TrainedModel

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class TaughtBatch:
    """A batch and its teachers' outputs, computed once: before the student runs, whose weights a teacher may borrow."""

    batch: Any
    teach: Callable[[Any], Teachers]

    @cached_property
    def teachers(self) -> Teachers:
        """Outputs of teacher, past self and anchor for this batch."""
        return self.teach(self.batch)


def taught_by(teacher_sources: Mapping[ViewName, TeacherSource], student: TrainedModel) -> Callable[[Any], Teachers]:
    """Return what asks every teacher for its outputs of a batch."""
    return lambda batch: Teachers(**{name: source.speak(student, batch) for name, source in teacher_sources.items()})


@dataclass(frozen=True)
class StepLoss:
    """A step's objectives with their denominators and means over all of its terms, of every micro-batch and process."""

    reduction: Reduction
    modality: Modality
    num_terms: dict[str, int]
    weight_means: Means

    @staticmethod
    def of(
        reduction: Reduction,
        modality: Modality,
        batches: Callable[[], Iterable[TaughtBatch]],
        accelerator: Accelerator | None,
        *,
        is_counted: bool = True,
    ) -> StepLoss:
        """Count the step. Without `is_counted` this process's batches are another's."""
        names = list(reduction.objectives)
        counts = dict.fromkeys(names, 0)
        meaned = [mean for objective in reduction.objectives.values() for mean in objective.requires.means]
        shares: dict[tuple[MeanOne, Any], tuple[float, float]] = dict.fromkeys(meaned, (0.0, 0.0))
        for taught in batches() if is_counted else ():
            for name in names:
                counts[name] += reduction.objectives[name].num_terms(taught.batch)
            entropies = cache(lambda taught=taught: modality.entropies(taught.batch, taught.teachers))
            for (weight, route), (total, count) in shares.items():
                part = weight.step_sums(taught.batch.facts, route, entropies)
                shares[weight, route] = (total + part[0], count + part[1])
        flat = [*map(float, counts.values()), *(value for pair in shares.values() for value in pair)]
        flat = over_processes(flat, accelerator)
        num_terms = {name: int(value) for name, value in zip(names, flat, strict=False)}
        pairs = zip(flat[len(names) :: 2], flat[len(names) + 1 :: 2], strict=True)
        means: dict[tuple[object, str], float] = {
            key: total / max(count, 1.0) for key, (total, count) in zip(shares, pairs, strict=True)
        }
        return StepLoss(reduction, modality, num_terms, means)

    def loss(self, module: Callable[[Any], Tensor], student: TrainedModel, taught: TaughtBatch) -> tuple[Tensor, Sums]:
        """Return the part of the step's loss that one batch has, and its sums; see Reduction.loss.

        `module` is the student as accelerate wraps it, which several processes must run through.
        """
        teachers = taught.teachers
        output = module(taught.batch)
        observed = self.modality.observed(student, output, taught.batch, teachers, self.weight_means)
        return self.reduction.loss(observed, self.num_terms)

    def means(self, sums: Mapping[str, float], accelerator: Accelerator | None) -> dict[str, float]:
        """Return each objective's mean over the step's terms from this process's sums."""
        totals = over_processes(list(sums.values()), accelerator)
        return {name: total / max(self.num_terms[name], 1) for name, total in zip(sums, totals, strict=True)}


def over_processes(values: list[float], accelerator: Accelerator | None) -> list[float]:
    """Return sums over all processes; without an accelerator this one stands alone."""
    if accelerator is None or accelerator.num_processes == 1 or not values:
        return values
    total = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum")
    return total.tolist()  # type: ignore[union-attr]
