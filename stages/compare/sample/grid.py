"""A picture of drawn images: a row a class, so that a person sees what figures do not say."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

NUM_COLUMNS, MIN_SIDE, GAP = 10, 28, 2


def write_grid(images: Tensor, labels: Tensor, path: Path) -> None:
    """Write the first images of each class in [-1, 1] as a PNG, small ones enlarged."""
    from PIL import Image  # in an extra

    classes = sorted(set(labels.tolist()))
    side = images.shape[-1]
    scale = max(1, -(-MIN_SIDE // side))
    cell = side * scale + GAP
    picture = torch.full((images.shape[1], cell * len(classes) + GAP, cell * NUM_COLUMNS + GAP), 255, dtype=torch.uint8)
    for row, label in enumerate(classes):
        for column, image in enumerate(images[labels == label][:NUM_COLUMNS]):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            pixels = pixels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
            top, left = GAP + row * cell, GAP + column * cell
            picture[:, top : top + side * scale, left : left + side * scale] = pixels
    array = picture.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
