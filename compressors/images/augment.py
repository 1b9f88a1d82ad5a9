"""Views of images that keep their class. Drawn anew at every step, from a generator that is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Augmentation(Protocol):
    """Changes pixels of a batch, each image by its own draw."""

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]: ...


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors an image left to right with `probability`. Not for digits and letters."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_share("probability", self.probability)

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        is_turned = torch.rand(len(pixels), generator=generator) < self.probability
        return torch.where(is_turned[:, None, None, None].to(pixels.device), pixels.flip(-1), pixels)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Turns a square image by 0 to 3 quarters, each as likely. Beside label_augmentation the control: the same views, no label of them."""

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        height, width = pixels.shape[-2:]
        if height != width:
            raise ValueError(f"turn is for square images; these are {height} x {width}")
        quarters = torch.randint(0, 4, (len(pixels),), generator=generator).tolist()
        return torch.stack([torch.rot90(image, count, (-2, -1)) for image, count in zip(pixels, quarters, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Moves an image by up to `fraction` of its height and width. What comes in at the edge is the edge again."""

    fraction: float = 0.125

    def __post_init__(self) -> None:
        check_share("fraction", self.fraction)

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        height, width = pixels.shape[-2:]
        limits = (round(height * self.fraction), round(width * self.fraction))
        rows, columns = (
            (torch.arange(size)[None] + torch.randint(-limit, limit + 1, (len(pixels), 1), generator=generator)).clamp(
                0, size - 1
            )
            for size, limit in zip((height, width), limits, strict=True)
        )
        images = torch.arange(len(pixels))[:, None, None]
        moved = pixels.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Takes a part of an image, of `min_area` to all of it, at its full size. https://arxiv.org/abs/1409.4842"""

    min_area: float = 0.35

    def __post_init__(self) -> None:
        check_share("min_area", self.min_area)

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        count = len(pixels)
        area = self.min_area + (1.0 - self.min_area) * torch.rand(count, generator=generator)
        # proportions of 3:4 to 4:3, in logarithms
        turn = ((torch.rand(count, generator=generator) * 2.0 - 1.0) * 0.2877).exp()
        sides = torch.stack([(area * turn).sqrt(), (area / turn).sqrt()], dim=1).clamp(max=1.0)
        centers = (torch.rand(count, 2, generator=generator) * 2.0 - 1.0) * (1.0 - sides)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = sides[:, 0], sides[:, 1], centers
        grid = nn.functional.affine_grid(theta.to(pixels), list(pixels.shape), align_corners=False)
        return nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Sets a square of `fraction` of the height and width to zero, which is about the mean. https://arxiv.org/abs/1708.04552"""

    fraction: float = 0.25

    def __post_init__(self) -> None:
        check_share("fraction", self.fraction)

    def __call__(self, pixels: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        keep = torch.ones(len(pixels), 1, *pixels.shape[-2:], dtype=torch.bool)
        spans = []
        for size in pixels.shape[-2:]:
            side = max(1, round(size * self.fraction))
            first = torch.randint(0, size - side + 1, (len(pixels), 1), generator=generator)
            positions = torch.arange(size)[None]
            spans.append((positions >= first) & (positions < first + side))
        keep[:, 0] = ~(spans[0][:, :, None] & spans[1][:, None, :])
        return pixels * keep.to(pixels)


# What a recipe names.
AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "flip": Flip,
    "turn": Turn,
    "shift": Shift,
    "crop": Crop,
    "erase": Erase,
}


def augmented(
    pixels: Float[Tensor, "N C H W"], augmentations: Sequence[Augmentation], generator: torch.Generator
) -> Float[Tensor, "N C H W"]:
    """Return a batch changed by each augmentation in turn."""
    for augmentation in augmentations:
        pixels = augmentation(pixels, generator)
    return pixels


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless a parameter is a share that is not nothing."""
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name} is {value}; accepted: above 0, at most 1")
