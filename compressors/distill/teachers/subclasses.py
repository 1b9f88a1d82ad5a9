"""Pseudo-subclasses: a class is split by the directions in which its texts differ for the teacher. LELP.

https://arxiv.org/abs/2409.20449. Of class c the features x (what the teacher's last layer reads) are taken off the span of that layer's weights W,
centred, and told by their S largest principal directions, which a random rotation mixes so that none has most of the variance:

    p(c, s | x) = p_T(c | x) softmax_s(coordinate_s / temperature)

The student has S outputs a class, learns this distribution whole, and adds them up when it answers. With S = 1 it is distillation as usual.
The paper's S and temperature are not known to us: coordinates are scaled to a mean variance of 1, temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a teacher's classes are split. By the directions of its features or by chance; the temperature of the softmax over them."""

    by: Literal["directions", "chance"] = "directions"
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Subclasses:
    """The split of each of C classes into S: coordinates of features x are (x - centers[c]) axes[c]."""

    centers: Float[Tensor, "C D"]
    axes: Float[Tensor, "C D S"]
    temperature: float = 1.0

    @staticmethod
    def fit(
        features: Float[Tensor, "N D"],
        classes: Int[Tensor, "N"],
        weight: Float[Tensor, "C D"],
        num_subclasses: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Subclasses:
        """Return the split that features suggest, each of the class that the teacher puts it in. A class of too few texts is split evenly.

        Raises ValueError for more subclasses than there are directions off the span of `weight`.
        """
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; accepted: above 0")
        features, weight = features.double(), weight.double()
        free = _off_span(weight)
        num_free = round(float(free.diagonal().sum()))
        if num_subclasses > num_free:
            raise ValueError(
                f"num_subclasses is {num_subclasses}, but beside its classes the teacher's features have {num_free} directions; accepted: up to that"
            )
        generator = torch.Generator().manual_seed(seed)
        centers, axes = [], []
        for index in range(len(weight)):
            own = features[classes == index] @ free
            center = own.mean(dim=0) if len(own) else torch.zeros(features.shape[1], dtype=torch.float64)
            rotation = torch.linalg.qr(torch.randn(num_subclasses, num_subclasses, generator=generator).double())[0]
            axes.append(free @ _directions(own - center, num_subclasses) @ rotation)
            centers.append(center)
        return Subclasses(torch.stack(centers).float(), torch.stack(axes).float(), temperature)

    def split(self, logits: Float[Tensor, "N C"], features: Float[Tensor, "N D"]) -> Float[Tensor, "N CS"]:
        """Return log-probabilities of the subclasses, class by class. Those of a class add up to the teacher's own probability of it."""
        coordinates = self.coordinates(features) / self.temperature
        return (logits.float().log_softmax(dim=-1)[:, :, None] + coordinates.log_softmax(dim=-1)).flatten(1)

    def coordinates(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C S"]:
        """Return where features lie in each class's own directions."""
        shifted = torch.einsum("nd,cds->ncs", features.float(), self.axes)
        return shifted - torch.einsum("cd,cds->cs", self.centers, self.axes)


def split_by_chance(logits: Float[Tensor, "N C"], num_subclasses: int, seed: int) -> Float[Tensor, "N CS"]:
    """Return log-probabilities of subclasses that say nothing of the texts, as sharp as those of `Subclasses`: the control."""
    drawn = torch.randn(*logits.shape, num_subclasses, generator=torch.Generator().manual_seed(seed))
    return (logits.float().log_softmax(dim=-1)[:, :, None] + drawn.log_softmax(dim=-1)).flatten(1)


def _off_span(weight: Float[Tensor, "C D"]) -> Float[Tensor, "D D"]:
    """Return the projection that takes away what lies in the span of the rows."""
    _, values, directions = torch.linalg.svd(weight, full_matrices=False)
    spanning = directions[values > 1e-6 * values.max()]
    return torch.eye(weight.shape[1], dtype=weight.dtype) - spanning.T @ spanning


def _directions(centred: Float[Tensor, "N D"], count: int) -> Float[Tensor, "D S"]:
    """Return the largest principal directions, scaled so that coordinates have a mean variance of 1; zeros of too few rows to tell."""
    axes = torch.zeros(centred.shape[1], count, dtype=centred.dtype)
    if len(centred) <= count:
        return axes
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    top = directions[:count]
    variance = values[: len(top)].square().sum() / (count * (len(centred) - 1))
    if variance > 0:
        axes[:, : len(top)] = top.T / variance.sqrt()
    return axes
