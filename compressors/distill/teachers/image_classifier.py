"""An image classifier as training runs it, student or teacher. Heads of a loss stand beside a student, and go with its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.teachers.outputs import ClassOutputs
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.within import Answer, answered

# What the names of heads among a student's weights begin with: those are of no use behind the training.
HEADS = "heads."


class ImageStudent(nn.Module):
    """An image classifier under training: of a batch it makes a logit a class of each image.

    Always in evaluation mode: batch norms keep their statistics, and nothing is dropped. A step is then the same however it is split.
    `heads` learn beside it by the same optimizer; they read its answer and no logit reads them.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, classifier: ImageClassifier, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.model = classifier.model
        self.heads = nn.ModuleDict(heads or {})
        # of the last forward pass, where heads read it
        self.answer: Answer | None = None
        self.train(False)

    def forward(self, batch: ImageBatch) -> Float[Tensor, "N K"]:
        """Return the logits of the batch's images."""
        if not self.heads:
            return self.model(pixel_values=batch.pixels.to(self.model.device, self.model.dtype)).logits.float()
        self.answer = self.answered(batch.pixels)
        return self.answer.logits

    def answered(self, pixels: Float[Tensor, "N C H W"]) -> Answer:
        """Return what it makes of other pixels, with gradient."""
        return answered(self.model, pixels)

    def train(self, mode: bool = True) -> Self:
        """Return the net in evaluation mode, whatever is asked for."""
        return super().train(False)

    def outputs(self, batch: ImageBatch, weights: Mapping[str, Tensor] | None = None) -> ClassOutputs:
        """Return the logits as a teacher's outputs."""
        return ClassOutputs(self(batch))
