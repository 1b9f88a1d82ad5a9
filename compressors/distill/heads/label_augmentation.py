"""Self-supervised label augmentation: which class, and in which view an image is shown, as one label. https://arxiv.org/abs/1910.05872

An image is shown in M views t_j, the first as it is. A head beside the net says which pair (class k, view j) it sees: of K M outcomes number
k M + j. The mean of a class's logits over the views, s_k = 1/M sum_j z_(k,j)(t_j(x)), is an ensemble that the net's own head learns to give
from one view alone. What is shipped is the net with its own head; the other goes, and no logit changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.heads.views import (
    LABELLED_ANSWERS,
    ImageViews,
    class_indices,
    labelled_terms,
    zero_linear,
)
from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.images.within import Answer, NetShape

HEAD = "joint"
Change = Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N C H W"]]


def _turned(quarters: int) -> Change:
    return lambda pixels: torch.rot90(pixels, quarters, (-2, -1))


def _recolored(order: tuple[int, ...]) -> Change:
    return lambda pixels: pixels[:, list(order)]


# The first of each leaves an image as it is.
TRANSFORMS: dict[str, tuple[Change, ...]] = {
    "rotations": tuple(map(_turned, range(4))),
    "colors": tuple(map(_recolored, permutations(range(3)))),
}


@dataclass(frozen=True)
class LabelAugmentation:
    """Pairs of class and view by a head beside the net; its own head learns their ensemble over views.

    -log P(k M + j | t_j(x)), mean over the views j, + distilled T^2 KL(softmax(sg s / T) || softmax(z / T)), in nats.
    P: of the head beside the net; s: the mean of its logits of a class over the views; z: the net's own logits of the image as it is.
    `transforms`: rotations by quarters (4 views, of square images) or colors, all orders of three channels (6 views); a step runs the net on
    each. `temperature` is T. https://arxiv.org/abs/1910.05872
    """

    transforms: str = "rotations"
    distilled: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_transforms(self.transforms)
        if self.distilled < 0:
            raise ValueError(f"distilled is {self.distilled}; accepted: 0 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; accepted: above 0")

    @property
    def requires(self) -> Requires:
        return LABELLED_ANSWERS

    def check(self, num_channels: int, image_size: tuple[int, int]) -> None:
        check_transformed(self.transforms, num_channels, image_size)

    def heads(self, shape: NetShape) -> dict[str, nn.Module]:
        return {HEAD: zero_linear(shape.width, shape.num_classes * len(TRANSFORMS[self.transforms]))}

    def num_terms(self, batch: ImageBatch) -> int:
        return batch.num_labelled

    def terms(self, views: ImageViews) -> Terms:
        answers = transformed_answers(self.transforms, views)
        joint = [views.heads[HEAD](answer.features) for answer in answers]
        loss = joint_loss(joint, class_indices(views))
        if self.distilled:
            target = aggregated(joint).detach()
            loss = loss + self.distilled * soft_distance(target, views.answer.logits, self.temperature)
        return labelled_terms(loss, views)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        # its own ensemble moves with the student: an unsure one is nearer to it whatever it learned
        return replace(self, distilled=0.0)


def check_transforms(name: str) -> None:
    """Raise ValueError for views that are not known."""
    if name not in TRANSFORMS:
        raise ValueError(f"transforms is {name!r}; accepted: {', '.join(TRANSFORMS)}")


def check_transformed(name: str, num_channels: int, image_size: tuple[int, int]) -> None:
    """Raise ValueError for images of which these views are none: of another shape, or without colors."""
    height, width = image_size
    if name == "rotations" and height != width:
        raise ValueError(
            f"transforms is 'rotations', but the model reads images of {height} x {width}; accepted: square"
        )
    if name == "colors" and num_channels != 3:
        raise ValueError(f"transforms is 'colors', but the model reads {num_channels} channels; accepted: 3")


def transformed_answers(name: str, views: ImageViews) -> list[Answer]:
    """Return what the student makes of each view; of the first it did already."""
    changes = TRANSFORMS[name]
    return [views.answer, *(views.of((name, index), changes[index]) for index in range(1, len(changes)))]


def joint_loss(joint: Sequence[Float[Tensor, "N KM"]], labels: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return the cross-entropy of each image with the pair of its class and each view, mean over the views."""
    count = len(joint)
    losses = [
        nn.functional.cross_entropy(of_view, labels * count + view, reduction="none")
        for view, of_view in enumerate(joint)
    ]
    return torch.stack(losses).mean(dim=0)


def aggregated(joint: Sequence[Float[Tensor, "N KM"]]) -> Float[Tensor, "N K"]:
    """Return the mean over views of each class's logit for that view: number k M + j of view j."""
    count = len(joint)
    return torch.stack([of_view[:, view::count] for view, of_view in enumerate(joint)]).mean(dim=0)


def soft_distance(
    target: Float[Tensor, "N K"], student: Float[Tensor, "N K"], temperature: float
) -> Float[Tensor, "N"]:
    """Return T^2 KL(softmax(target / T) || softmax(student / T)) of logits, whose gradient keeps its size."""
    soft = [(logits / temperature).log_softmax(dim=-1) for logits in (target, student)]
    return temperature**2 * kl(*soft)
