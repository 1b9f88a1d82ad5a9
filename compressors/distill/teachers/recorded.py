"""A teacher that was run once. What it gave of each example is read again at every step, and nobody runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.teachers.outputs import ClassOutputs, TeacherOutputs
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.models.trained_weights import Weights


@dataclass
class RecordedOutputs:
    """A teacher that was run once over all examples. `outputs_of` makes a teacher's outputs of what a batch brings."""

    outputs_of: Callable[[TrainedModel, Any], TeacherOutputs]
    weights: Weights = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        return False

    @property
    def own_model(self) -> None:
        return None

    def follow(self, student: Any, example: Any) -> bool:
        return False

    def speak(self, student: TrainedModel, batch: Any) -> Any:
        return self.outputs_of(student, batch)

    def advance(self, student: TrainedModel, clock: Clock) -> None:
        pass

    def model_of(self, student: Any) -> AbstractContextManager[Any]:
        raise TypeError("a teacher that was run once cannot write; a rollout needs a live one")


def recorded_classes(student: TrainedModel, batch: Any) -> ClassOutputs:
    """Return the logits that a batch of texts or images brings."""
    assert batch.teacher is not None, "the teacher was run over every example that is learned or evaluated"
    return ClassOutputs(batch.teacher.to(next(student.parameters()).device))
