"""An image classifier as training runs it, student or teacher, and a teacher's distributions that were computed once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.classes import ClassOutputs
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.models.trained_weights import Weights


class ImageStudent(nn.Module):
    """An image classifier under training: of a batch it makes a logit a class of each image.

    Always in evaluation mode: batch norms keep their statistics, and nothing is dropped. A step is then the same however it is split.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.model = classifier.model
        self.train(False)

    def forward(self, batch: ImageBatch) -> Float[Tensor, "N K"]:
        """Return the logits of the batch's images."""
        return self.model(pixel_values=batch.pixels.to(self.model.device, self.model.dtype)).logits.float()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def outputs(self, batch: ImageBatch, weights: Mapping[str, Tensor] | None = None) -> ClassOutputs:
        """Return its distributions as a teacher's outputs."""
        return ClassOutputs(self(batch))


@dataclass
class RecordedClasses:
    """A teacher that was run once over all images: each brings the logits that it gave."""

    weights: Weights = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        return False

    @property
    def own_model(self) -> None:
        return None

    def follow(self, student: Any, example: Any) -> bool:
        return False

    def speak(self, student: TrainedModel, batch: ImageBatch) -> ClassOutputs:
        assert batch.teacher is not None, "the teacher was run over every image that is learned or evaluated"
        return ClassOutputs(batch.teacher.to(next(student.parameters()).device))

    def advance(self, student: TrainedModel, clock: Clock) -> None:
        pass

    def model_of(self, student: Any) -> AbstractContextManager[Any]:
        raise TypeError("a classifier writes nothing")
