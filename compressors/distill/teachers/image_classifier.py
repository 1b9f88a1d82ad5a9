"""An image classifier as training runs it, student or teacher, and a teacher's distributions that were computed once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.teachers.outputs import LiveTeacher
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.models.head import OutputHead
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
        """Return the net in evaluation mode, whatever is asked for."""
        return super().train(False)

    def outputs(self, batch: ImageBatch, weights: Mapping[str, Tensor] | None = None) -> LiveTeacher:
        """Return its distributions as a teacher's outputs."""
        return _distributions(self(batch))


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

    def speak(self, student: TrainedModel, batch: ImageBatch) -> LiveTeacher:
        assert batch.teacher is not None, "the teacher was run over every image that is learned or evaluated"
        return _distributions(batch.teacher.to(next(student.parameters()).device))

    def advance(self, student: TrainedModel, clock: Clock) -> None:
        pass

    def model_of(self, student: Any) -> AbstractContextManager[Any]:
        raise TypeError("a classifier writes nothing")


def _distributions(logits: Float[Tensor, "N K"]) -> LiveTeacher:
    """Return logits as a teacher's outputs: states whose head changes nothing."""
    return LiveTeacher(logits, OutputHead(torch.eye(logits.shape[1], device=logits.device)))
