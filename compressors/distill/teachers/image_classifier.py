"""An image classifier as training runs it, student or teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.teachers.outputs import ClassOutputs
from attar.compressors.images.classifier import ImageClassifier


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

    def outputs(self, batch: ImageBatch, weights: Mapping[str, Tensor] | None = None) -> ClassOutputs:
        """Return the logits as a teacher's outputs."""
        return ClassOutputs(self(batch))
