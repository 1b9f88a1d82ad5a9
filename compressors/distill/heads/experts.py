"""More diverse experts with consistency self-distillation, for classes with many and with few images. https://arxiv.org/abs/2308.09922

E experts read one net. Expert e gives raw logits z_e and learns under a_e = z_e + lambda_e log n, where n_k is how many training images class k
has: a larger lambda_e leaves the frequent classes to n, so that z_e itself turns to the rare ones. The classifier that is shipped gives their
mean 1/E sum_e z_e. As each expert is the net's own last layer and a difference from it, z_e = z + (D_e - mean D) h, that mean is the net's own
z to rounding: the experts go, and no logit changes. Each expert also learns from itself: what it makes of a weak view, where it is right, is
the target of what it makes of a strong view.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attar.compressors.distill.examples.images import ImageBatch, redrawn
from attar.compressors.distill.heads.views import LABELLED_ANSWERS, ImageViews, class_indices, labelled_terms
from attar.compressors.distill.losses.classes import Labels
from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.images.augment import Crop, Erase, check_share
from attar.compressors.images.within import Answer, NetShape

HEAD = "experts"
# A strong view draws other numbers than the weak view of the same image at the same step.
STRONG_DRAW = 500_009


class Experts(nn.Module):
    """Differences of several last layers from their mean, which is the net's own. Their matrices begin apart by a small draw.

    Their shifts begin at -(lambda_e - mean lambda) log n: every expert's adjusted logits are then z + mean lambda log n, and none has to learn
    first what its adjustment added, which of a class with few images is more than a short training moves a shift by.
    """

    def __init__(self, width: int, lambdas: Sequence[float], prior: Float[Tensor, "K"]) -> None:
        super().__init__()
        apart = torch.tensor(lambdas) - sum(lambdas) / len(lambdas)
        self.weight = nn.Parameter(0.1 * width**-0.5 * torch.randn(len(lambdas), len(prior), width))
        self.bias = nn.Parameter(-apart[:, None] * prior)

    def forward(self, answer: Answer) -> Float[Tensor, "E N K"]:
        """Return each expert's raw logits; their mean is the answer's."""
        weight, bias = self.weight - self.weight.mean(dim=0), self.bias - self.bias.mean(dim=0)
        return answer.logits + torch.einsum("nd,ekd->enk", answer.features, weight) + bias[:, None]


@dataclass(frozen=True)
class DiverseExperts:
    """Experts of frequent and of rare classes learn labels, and from their own weak view where it is right.

    sum_e [CE(a_e, y), mean of weak and strong view, + consistency KL(sg p_e(weak) || p_e(strong)) where argmax a_e(weak) = y], in nats.
    p_e = softmax(a_e), a_e = z_e + lambda_e log n. `lambdas`: a number an expert, of frequent, of all and of rare classes. `min_area` and
    `erased`: the strong view's crop and erased square, on top of the augmentations of the rows, which are the weak view. `is_masked` false:
    the KL of every image, the control. https://arxiv.org/abs/2308.09922
    """

    lambdas: tuple[float, ...] = (-0.5, 1.0, 2.5)
    consistency: float = 0.6
    min_area: float = 0.5
    erased: float = 0.25
    is_masked: bool = True

    def __post_init__(self) -> None:
        if len(self.lambdas) < 2 or not all(isinstance(value, int | float) for value in self.lambdas):
            raise ValueError(f"lambdas are {list(self.lambdas)}; accepted: two numbers or more, one an expert")
        object.__setattr__(self, "lambdas", tuple(map(float, self.lambdas)))
        if self.consistency < 0:
            raise ValueError(f"consistency is {self.consistency}; accepted: 0 or more")
        for name in ("min_area", "erased"):
            check_share(name, getattr(self, name))

    @property
    def requires(self) -> Requires:
        return LABELLED_ANSWERS

    def check(self, num_channels: int, image_size: tuple[int, int]) -> None:
        """Take any image: all can be cropped."""

    def heads(self, shape: NetShape) -> dict[str, nn.Module]:
        counts = torch.tensor(shape.class_counts or (1,) * shape.num_classes)
        return {HEAD: Experts(shape.width, self.lambdas, log_counts(counts))}

    def num_terms(self, batch: ImageBatch) -> int:
        return batch.num_labelled

    def terms(self, views: ImageViews) -> Terms:
        weak, strong = (self._adjusted(answer, views) for answer in (views.answer, self._strong(views)))
        losses = [expert_loss(logits, class_indices(views)) for logits in (weak, strong)]
        loss = torch.stack(losses).mean(dim=0)
        if self.consistency:
            mask = is_confident(weak, views.labels) if self.is_masked else torch.ones_like(weak[..., 0]).bool()
            loss = loss + self.consistency * consistency(weak.detach(), strong, mask)
        return labelled_terms(loss, views)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        # of what is shipped: rows that are held out may have other shares of each class than those that n was counted on
        return Labels()

    def _adjusted(self, answer: Answer, views: ImageViews) -> Float[Tensor, "E N K"]:
        lambdas = torch.tensor(self.lambdas, device=answer.logits.device)
        prior = log_counts(views.class_counts).to(answer.logits)
        return views.heads[HEAD](answer) + lambdas[:, None, None] * prior

    def _strong(self, views: ImageViews) -> Answer:
        if not views.draws:
            return views.answer
        draws, changes = [draw + STRONG_DRAW for draw in views.draws], self._strong_changes()
        return views.of((HEAD, changes), lambda pixels: redrawn(pixels, draws, changes))

    def _strong_changes(self) -> tuple[Crop, Erase]:
        return Crop(min_area=self.min_area), Erase(fraction=self.erased)


def log_counts(class_counts: Int[Tensor, "K"]) -> Float[Tensor, "K"]:
    """Return log n of each class. A class without images counts as if it had one: its logit is not adjusted."""
    return class_counts.clamp(min=1).float().log()


def expert_loss(logits: Float[Tensor, "E N K"], labels: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return the sum over experts of each image's cross-entropy."""
    losses = [nn.functional.cross_entropy(of_expert, labels, reduction="none") for of_expert in logits]
    return torch.stack(losses).sum(dim=0)


def is_confident(weak: Float[Tensor, "E N K"], labels: Int[Tensor, "N"]) -> Bool[Tensor, "E N"]:
    """Say where an expert puts the weak view of an image into its class."""
    return weak.argmax(dim=-1) == labels


def consistency(
    weak: Float[Tensor, "E N K"], strong: Float[Tensor, "E N K"], mask: Bool[Tensor, "E N"]
) -> Float[Tensor, "N"]:
    """Return the sum over the experts of the mask of KL(softmax(weak) || softmax(strong)), of logits."""
    pairs = zip(weak.log_softmax(dim=-1), strong.log_softmax(dim=-1), strict=True)
    return torch.where(mask, torch.stack([kl(*pair) for pair in pairs]), 0.0).sum(dim=0)
