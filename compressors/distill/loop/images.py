"""Training of image classifiers: how images become batches, and logits the distributions over classes that losses read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attar.compressors.distill.examples.images import ImageBatch, LabelledImage, image_batches
from attar.compressors.distill.heads.views import ANSWERS, ImageViews
from attar.compressors.distill.loop.classes import class_views
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.classes import ClassDistributions
from attar.compressors.distill.losses.objective import Observed, Whole
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.image_classifier import ImageStudent
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.images.augment import Augmentation

# Between two seeds of a config: more steps than any training has.
STEPS_APART = 7_368_787


@dataclass(frozen=True)
class ImagesWithClasses:
    """Images under a classifier: a position is an image, its distribution one over classes.

    Steps learn augmented images. Held-out evaluations, which stand outside of the steps, see them as they are. `class_counts`: how many
    training images each class has.
    """

    augmentations: tuple[Augmentation, ...] = ()
    seed: int = 0
    step: int | None = None
    class_counts: tuple[int, ...] = ()
    # of a pool of teachers, as ClassTexts has them
    widths: Mapping[str, int] = field(default_factory=dict)

    def at(self, step: int) -> ImagesWithClasses:
        return replace(self, step=step)

    def batches(
        self, examples: Sequence[LabelledImage], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[ImageBatch]:
        if self.step is None:
            return image_batches(examples, order, tokens_per_batch)
        return image_batches(examples, order, tokens_per_batch, self.augmentations, self.seed * STEPS_APART + self.step)

    def observed(
        self, student: ImageStudent, output: Tensor, batch: ImageBatch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        labels = batch.labels.to(output.device)
        observed = class_views(output, labels, teachers, batch.facts, means, self.widths)
        if student.answer is not None:
            views = ImageViews(
                student.answer,
                batch.pixels.to(output.device),
                labels,
                batch.draws,
                dict(student.heads.items()),
                torch.tensor(self.class_counts, device=output.device),
                student.answered,
            )
            observed[ANSWERS] = Whole(views)
        return observed

    def entropies(self, batch: ImageBatch, teachers: Teachers) -> TokenStats:
        unread = torch.zeros(batch.num_positions, 1)  # of the student's logits only their number
        return ClassDistributions(unread, batch.labels, teachers, batch.facts).entropies()
