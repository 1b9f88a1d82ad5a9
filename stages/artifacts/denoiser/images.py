"""Images of a data set as a denoiser takes them. In [-1, 1], of its channels, averaged down to its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.images.dataset import ImageBytes, ImageRow, read_image_rows
from attar.stages.artifacts.images.pixels import decoded

CHANNELS = {1: "grey", 3: "colour"}


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes and ids, one a row."""

    images: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_images(data: ImageDatasetArtifact, split: Split, num_channels: int, side: int) -> LabelledImages:
    """Return the images of one part. Raises ValueError for one that is not of the size; see `check_images`."""
    rows = [row for row in read_image_rows(data.path) if row.split == split]
    content = ImageBytes(data)
    images = [_pixels(content(row), row, num_channels, side) for row in rows]
    empty = torch.zeros(0, num_channels, side, side)
    return LabelledImages(
        torch.stack(images) if images else empty,
        torch.tensor([row.label for row in rows], dtype=torch.long),
        tuple(row.id for row in rows),
    )


def check_images(model: Facts, data: Sequence[Facts]) -> None:
    """Raise ValueError, before any work, for images that the denoiser cannot take.

    Other channels or sizes, too many classes, a single one.
    """
    for facts in data:
        name = str(facts.get("name", "data"))
        if "image_size" not in facts:
            raise ValueError(
                f"input data {name} holds rows of text, and the model is a denoiser; accepted: a data set of images"
            )
        num_classes, num_labels = facts.get("num_classes"), model.get("num_labels")
        if num_classes == 1:
            raise ValueError(
                f"input data {name} has a single class; accepted: two or more, which a denoiser is told apart by"
            )
        if num_classes is not None and num_labels is not None and num_classes > num_labels:
            raise ValueError(
                f"input data {name} has labels to {num_classes - 1}, but the model is told {num_labels} classes; accepted: 0 to {num_labels - 1}"
            )
        given, wanted = facts.get("num_channels"), model.get("num_image_channels")
        if given is not None and wanted is not None and given != wanted:
            raise ValueError(
                f"input data {name} has {CHANNELS.get(given, given)} images, the model makes {CHANNELS.get(wanted, wanted)} ones; "
                f"accepted: images of {wanted} channels"
            )
        height, width = tuple(facts["image_size"])
        side = model.get("sample_size")
        # (0, 0): not known before the data is read
        if side is not None and height and (height != width or height % side):
            raise ValueError(
                f"input data {name} has images of {height} x {width}, which are no multiple of the model's {side} x {side}; accepted: those"
            )


def _pixels(content: bytes, row: ImageRow, num_channels: int, side: int) -> Float[Tensor, "C H W"]:
    try:
        pixels = decoded(content, num_channels)
    except ValueError as error:
        raise ValueError(f"image {row.id} {error}") from error
    height, width, _ = pixels.shape
    if height != width or height % side:
        raise ValueError(f"image {row.id} is {height} x {width}; accepted: a multiple of {side} x {side}")
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1.0
    return nn.functional.avg_pool2d(image, height // side)


def has_any_class(model: Facts, data: Sequence[Facts]) -> bool:
    """Say whether the denoiser has a class beyond those of the data, which means any."""
    return int(model.get("num_labels", 0)) > max((int(facts.get("num_classes", 0)) for facts in data), default=0)
