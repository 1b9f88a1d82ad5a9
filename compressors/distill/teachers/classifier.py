"""A classifier of texts or of words as training runs it, student or teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.teachers.outputs import ClassOutputs
from attar.compressors.encode.classifier import TextClassifier, of_classes


class ClassifierStudent(nn.Module):
    """A classifier of texts, or of words, under training. It makes logits of classes, or of their subclasses where those are taught."""

    reads: tuple[str, ...] = ()

    def __init__(self, classifier: TextClassifier, *, tells_subclasses: bool = False) -> None:
        super().__init__()
        self.model = classifier.model
        self._classifier = (classifier,)  # no module of its own: its weights go by the model's names
        self._num_summed = 1 if tells_subclasses else classifier.num_subclasses

    def forward(self, batch: SentenceBatch) -> Float[Tensor, "N C"]:
        """Return the logits of the batch's texts, or of their words."""
        device, (classifier,) = self.model.device, self._classifier
        outputs = classifier.outputs(batch.input_ids.to(device), batch.attention_mask.to(device))
        if batch.words is not None:
            row, column = batch.words.to(device)
            outputs = outputs[row, column]
        return of_classes(outputs, self._num_summed)

    def outputs(self, batch: SentenceBatch, weights: Mapping[str, Tensor] | None = None) -> ClassOutputs:
        """Return the logits as a teacher's outputs."""
        return ClassOutputs(self(batch))


@contextmanager
def reading_features(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Collect what a head's last layer reads of each batch inside the block: a vector an example."""
    features: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda layer, args: features.append(args[0]))
    try:
        yield features
    finally:
        handle.remove()
