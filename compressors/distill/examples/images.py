"""Images as training examples: pixels that are read when a batch is made, a class each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.images.augment import Augmentation, augmented


@dataclass(frozen=True)
class LabelledImage:
    """One image: how its pixels are had, its class, and the teacher's logits where it was run once."""

    pixels: Callable[[], Float[Tensor, "C H W"]]
    label: int
    teacher: Float[Tensor, "K"] | None = None
    facts: SampleFacts = field(default_factory=SampleFacts)
    # an image counts as one toward a step's size
    num_tokens: int = 1


@dataclass(frozen=True)
class ImageBatch:
    """Several images; a position is an image."""

    pixels: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]
    facts: tuple[SampleFacts, ...]
    teacher: Float[Tensor, "N K"] | None = None

    @property
    def num_positions(self) -> int:
        return len(self.labels)

    @property
    def num_taught(self) -> int:
        """How many of them a teacher speaks of: all."""
        return len(self.labels)

    @property
    def num_labelled(self) -> int:
        """How many of them have a class: all."""
        return len(self.labels)

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> ImageBatch:
        return self


def image_batches(
    examples: Sequence[LabelledImage],
    order: Sequence[int],
    images_per_batch: int,
    augmentations: Sequence[Augmentation] = (),
    seed: int = 0,
) -> Iterator[ImageBatch]:
    """Yield the images of `order`. Each is augmented by a draw that hangs on `seed` and its number: however a step is split, alike."""
    for start in range(0, len(order), images_per_batch):
        chosen = order[start : start + images_per_batch]
        yield collated([examples[index] for index in chosen], _drawn(chosen, augmentations, seed))


def collated(
    images: Sequence[LabelledImage],
    change: Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N C H W"]] | None = None,
) -> ImageBatch:
    """Return the batch of these images."""
    pixels = torch.stack([image.pixels() for image in images])
    taught = [image.teacher for image in images if image.teacher is not None]
    assert len(taught) in (0, len(images)), "the teacher was run over all images of a batch, or none"
    return ImageBatch(
        pixels if change is None else change(pixels),
        torch.tensor([image.label for image in images]),
        tuple(image.facts for image in images),
        torch.stack(taught) if taught else None,
    )


def _drawn(
    chosen: Sequence[int], augmentations: Sequence[Augmentation], seed: int
) -> Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N C H W"]] | None:
    if not augmentations:
        return None

    def change(pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        parts = []
        for index, image in zip(chosen, pixels, strict=True):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            parts.append(augmented(image[None], augmentations, generator))
        return torch.cat(parts)

    return change
