"""Images as training examples: pixels that are read when a batch is made, a class each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.elastic.space import Subnet
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
    """Several images; a position is an image. `draws`: what each image's own draws of this step hang on; none outside of steps."""

    pixels: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]
    facts: tuple[SampleFacts, ...]
    teacher: Float[Tensor, "N K"] | None = None
    draws: tuple[int, ...] = ()
    # of an elastic student: those that run
    subnets: tuple[Subnet, ...] = ()

    @property
    def num_positions(self) -> int:
        return len(self.labels)

    @property
    def num_taught(self) -> int:
        """How many of them a teacher speaks of: all."""
        return len(self.labels)

    @property
    def num_labelled(self) -> int:
        """How many of them have a class: those that came with one."""
        return int((self.labels >= 0).sum())

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> ImageBatch:
        return self


def image_batches(
    examples: Sequence[LabelledImage],
    order: Sequence[int],
    images_per_batch: int,
    augmentations: Sequence[Augmentation] = (),
    seed: int | None = None,
) -> Iterator[ImageBatch]:
    """Yield the images of `order`. Each is augmented by a draw that hangs on `seed` and its number: however a step is split, alike.

    Without a seed nothing is drawn.
    """
    for start in range(0, len(order), images_per_batch):
        chosen = order[start : start + images_per_batch]
        draws = () if seed is None else tuple(seed * 1_000_003 + index for index in chosen)
        yield collated([examples[index] for index in chosen], draws, augmentations)


def collated(
    images: Sequence[LabelledImage], draws: tuple[int, ...] = (), augmentations: Sequence[Augmentation] = ()
) -> ImageBatch:
    """Return the batch of these images."""
    pixels = torch.stack([image.pixels() for image in images])
    taught = [image.teacher for image in images if image.teacher is not None]
    assert len(taught) in (0, len(images)), "the teacher was run over all images of a batch, or none"
    return ImageBatch(
        redrawn(pixels, draws, augmentations) if draws else pixels,
        torch.tensor([image.label for image in images]),
        tuple(image.facts for image in images),
        torch.stack(taught) if taught else None,
        draws,
    )


def redrawn(
    pixels: Float[Tensor, "N C H W"], draws: Sequence[int], augmentations: Sequence[Augmentation]
) -> Float[Tensor, "N C H W"]:
    """Return images augmented, each by its own draw."""
    if not augmentations:
        return pixels
    parts = []
    for draw, image in zip(draws, pixels, strict=True):
        parts.append(augmented(image[None], augmentations, torch.Generator().manual_seed(draw)))
    return torch.cat(parts)
