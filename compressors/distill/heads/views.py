"""What a loss of an image classifier reads beyond distributions. The student's answer, what it makes of other views, heads beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.losses.classes import UNLABELLED
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.images.within import Answer, NetShape

# The kind of views that an image classifier with heads beside it gives.
ANSWERS = "answers"
# What such a loss needs that reads labels too.
LABELLED_ANSWERS = Requires(views=ANSWERS, facts=frozenset({"labels"}))


@dataclass(frozen=True)
class ImageViews:
    """A batch as the student answers it, and heads that read such an answer. All with gradient; `pixels` and `labels` on its device.

    `class_counts`: how many training images each class has. `draws`: what each image's own draws hang on; none where nothing is drawn.
    """

    answer: Answer
    pixels: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]
    draws: tuple[int, ...]
    heads: Mapping[str, nn.Module]
    class_counts: Int[Tensor, "K"]
    answered: Callable[[Float[Tensor, "N C H W"]], Answer]
    # what was made of a view, by its name: losses that read the same view run the net once
    _seen: dict[object, Answer] = field(default_factory=dict)

    @property
    def is_labelled(self) -> Bool[Tensor, "N"]:
        """Which images have a class."""
        return self.labels != UNLABELLED

    def of(self, view: object, change: Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N C H W"]]) -> Answer:
        """Return what the student makes of changed images, under a name for the change."""
        if view not in self._seen:
            self._seen[view] = self.answered(change(self.pixels))
        return self._seen[view]


class ImageObjective(Objective[ImageBatch, ImageViews], Protocol):
    """An objective of an image classifier that brings heads of its own, and says which images it is for."""

    def check(self, num_channels: int, image_size: tuple[int, int]) -> None:
        """Raise ValueError for images that its views cannot be made of. A size of (0, 0) is not known yet."""
        ...

    def heads(self, shape: NetShape) -> dict[str, nn.Module]:
        """Return what learns beside the net, by name. Objectives that name the same share it."""
        ...


def heads_of(objectives: Mapping[str, Objective], shape: NetShape) -> dict[str, nn.Module]:
    """Return the heads of all objectives, each once. Raises ValueError for two of a name that do not fit each other."""
    heads: dict[str, nn.Module] = {}
    owners: dict[str, str] = {}
    for owner, objective in objectives.items():
        if objective.requires.views != ANSWERS:
            continue
        for name, head in objective.heads(shape).items():  # type: ignore[attr-defined] - as its views say
            if name in heads and _sizes(heads[name]) != _sizes(head):
                raise ValueError(
                    f"objectives.{owners[name]} and objectives.{owner} read the same head of two sizes; accepted: the same parameters"
                )
            heads.setdefault(name, head)
            owners.setdefault(name, owner)
    return heads


def labelled_terms(values: Float[Tensor, "N"], views: ImageViews) -> Terms:
    """Return terms of which those of images with a class count."""
    return Terms(values, views.is_labelled)


def class_indices(views: ImageViews) -> Int[Tensor, "N"]:
    """Return the classes, 0 where there is none: what is made of those does not count."""
    return views.labels.clamp(min=0)


def zero_linear(width: int, num_outputs: int) -> nn.Linear:
    """Return a layer of zeros, under which every outcome is as likely, whatever the seed."""
    layer = nn.Linear(width, num_outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def _sizes(head: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in head.named_parameters()]
