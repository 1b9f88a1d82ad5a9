"""Layered self-supervised distillation: heads at inner stages learn class and view, each from the deeper ones. https://arxiv.org/abs/2506.07055

Behind each inner stage l a head reads the mean over positions f_l and says which pair of class and view it sees, as in label_augmentation.py;
so does a head L at the end. Shallow heads also learn what deeper ones say, and what their stages hand on is drawn toward the end's features.
All heads go with the training, and no logit changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch
from attar.compressors.distill.heads.label_augmentation import (
    TRANSFORMS,
    check_transformed,
    check_transforms,
    joint_loss,
    soft_distance,
    transformed_answers,
)
from attar.compressors.distill.heads.views import (
    LABELLED_ANSWERS,
    ImageViews,
    class_indices,
    labelled_terms,
    zero_linear,
)
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.images.within import Answer, NetShape

HEAD = "stage"


class InnerHead(nn.Module):
    """Pairs of class and view from what a stage hands on, and its projection into the features of the end."""

    def __init__(self, width: int, num_pairs: int, end_width: int) -> None:
        super().__init__()
        self.pairs = zero_linear(width, num_pairs)
        self.projection = nn.Linear(width, end_width)


@dataclass(frozen=True)
class StageHeads:
    """Pairs of class and view by heads at every depth, which learn from deeper ones.

    sum_l CE(q_l, (y, view)) + agreement sum_(l<m) T^2 KL(sg q_m || q_l) + alignment sum_l mean (P_l f_l - sg f_L)^2, mean over views, in nats.
    q_l: pairs of class and view by the head behind stage l; the last head reads the features that the net's own last layer reads.
    `transforms`: rotations (4 views, of square images) or colors (6). `temperature` is T. https://arxiv.org/abs/2506.07055, without a teacher.
    """

    transforms: str = "rotations"
    agreement: float = 1.0
    alignment: float = 0.05
    temperature: float = 3.0

    def __post_init__(self) -> None:
        check_transforms(self.transforms)
        for name in ("agreement", "alignment"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 0 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; accepted: above 0")

    @property
    def requires(self) -> Requires:
        return LABELLED_ANSWERS

    def check(self, num_channels: int, image_size: tuple[int, int]) -> None:
        check_transformed(self.transforms, num_channels, image_size)

    def heads(self, shape: NetShape) -> dict[str, nn.Module]:
        if not shape.stage_widths:
            raise ValueError("stage_heads needs inner stages, but the model has a single block; accepted: two or more")
        num_pairs = shape.num_classes * len(TRANSFORMS[self.transforms])
        widths = (*shape.stage_widths, shape.width)
        return {f"{HEAD}_{index}": InnerHead(width, num_pairs, shape.width) for index, width in enumerate(widths)}

    def num_terms(self, batch: ImageBatch) -> int:
        return batch.num_labelled

    def terms(self, views: ImageViews) -> Terms:
        answers = transformed_answers(self.transforms, views)
        # of each head its pairs of each view
        pairs = [
            [self._head(views, index).pairs(states[index]) for states in map(depths, answers)]
            for index in range(len(depths(answers[0])))
        ]
        labels = class_indices(views)
        loss = torch.stack([joint_loss(of_views, labels) for of_views in pairs]).sum(dim=0)
        if self.agreement:
            loss = loss + self.agreement * agreement(pairs, self.temperature)
        if self.alignment:
            apart = [self._apart(views, answer) for answer in answers]
            loss = loss + self.alignment * torch.stack(apart).mean(dim=0)
        return labelled_terms(loss, views)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        # deeper heads and features move with the student
        return replace(self, agreement=0.0, alignment=0.0)

    def _head(self, views: ImageViews, index: int) -> InnerHead:
        head: InnerHead = views.heads[f"{HEAD}_{index}"]  # type: ignore[assignment] - as `heads` made it
        return head

    def _apart(self, views: ImageViews, answer: Answer) -> Float[Tensor, "N"]:
        end = answer.features.detach()
        squares = [
            (self._head(views, index).projection(states) - end).square().mean(dim=-1)
            for index, states in enumerate(answer.stages)
        ]
        return torch.stack(squares).sum(dim=0)


def depths(answer: Answer) -> tuple[Float[Tensor, "N D"], ...]:
    """Return what each head reads, the shallowest first."""
    return (*answer.stages, answer.features)


def agreement(pairs: list[list[Float[Tensor, "N KM"]]], temperature: float) -> Float[Tensor, "N"]:
    """Return the sum over heads and deeper ones of T^2 KL(sg deeper || shallower), mean over views."""
    distances = [
        torch.stack(
            [soft_distance(deep.detach(), own, temperature) for deep, own in zip(deeper, shallow, strict=True)]
        ).mean(dim=0)
        for index, shallow in enumerate(pairs)
        for deeper in pairs[index + 1 :]
    ]
    return torch.stack(distances).sum(dim=0)
