"""An image classifier as training runs it, student or teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.teachers.outputs import ClassOutputs
from attar.compressors.distill.teachers.pool import add_pool_heads
from attar.compressors.images.classifier import ImageClassifier, last_layer


class ImageStudent(nn.Module):
    """An image classifier under training: of a batch it makes a logit a class of each image.

    Always in evaluation mode: batch norms keep their statistics, and nothing is dropped. A step is then the same however it is split.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, classifier: ImageClassifier, num_pool_classes: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = classifier.model
        self._pool = add_pool_heads(self, last_layer(self.model), num_pool_classes) if num_pool_classes else None
        self.train(False)

    def forward(self, batch: ImageBatch) -> Float[Tensor, "N W"]:
        """Return the logits of the batch's images, and behind its own those of a pool's heads where it has them."""
        return self._own(batch) if self._pool is None else self._pool(lambda: self._own(batch))

    def _own(self, batch: ImageBatch) -> Float[Tensor, "N K"]:
        return self.model(pixel_values=batch.pixels.to(self.model.device, self.model.dtype)).logits.float()

    def train(self, mode: bool = True) -> Self:
        """Return the net in evaluation mode, whatever is asked for."""
        return super().train(False)

    def outputs(self, batch: ImageBatch, weights: Mapping[str, Tensor] | None = None) -> ClassOutputs:
        """Return the logits as a teacher's outputs."""
        return ClassOutputs(self._own(batch))
