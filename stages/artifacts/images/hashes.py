"""Perceptual hashes of images: 64 bits that stay when an image is scaled, compressed anew or made a little lighter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.stages.artifacts.images.dataset import ImageBytes, ImageRow
from attar.stages.artifacts.images.pixels import opened

NUM_BITS = 64


def perceptual_hashes(
    data: ImageDatasetArtifact, rows: Sequence[ImageRow], on_image: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Return the hash of each image as a number of 64 bits. Signs of the lowest frequencies of its cosine transform, in grey.

    Raises ValueError where imagehash is not installed.
    """
    try:
        import imagehash  # pyright: ignore[reportMissingImports] - in an extra
    except ImportError as error:
        raise ValueError("near-duplicates are told by imagehash: install attar[images]") from error
    stored, codes = ImageBytes(data), []
    for row in rows:
        bits = imagehash.phash(_shown(opened(stored(row)))).hash.flatten()
        codes.append(int.from_bytes(np.packbits(bits).tobytes()))
        on_image()
    return np.array(codes, dtype=np.uint64)


def _shown(image: Any) -> Any:
    """Return an image as it looks on white: what lies under transparent pixels, all the hash would see of a drawing, is no part of it."""
    from PIL import Image  # there since the image is

    if not image.has_transparency_data:
        return image
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
