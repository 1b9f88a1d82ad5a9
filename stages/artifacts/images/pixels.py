"""Images as a classifier reads them: decoded, and sized, cropped and normalized by the processor of its own folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.stages.artifacts.images.dataset import ImageBytes, ImageRow
from attar.stages.artifacts.images.fit import refuse_other_channels
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.artifacts.model.safe_folder import read_object

PROCESSOR = "preprocessor_config.json"
# Pixels of what is read again and again stay in memory up to so many bytes.
CACHE_BYTES = 2_000_000_000
# More than any camera's: an image of this many pixels is made to fill memory.
MAX_PIXELS = 100_000_000
MODES = {1: "L", 3: "RGB"}
# What a processor's config calls the sides of images, and the most that any of them may be.
SIDES = ("height", "width", "shortest_edge", "longest_edge", "crop_size", "max_height", "max_width")
MAX_SIDE = 4_096
# Height and width of what a processor is tried on: all images must come out in one size.
PROBES = ((96, 128), (128, 96))


def decoded(content: bytes, num_channels: int) -> np.ndarray:
    """Return an image as height x width x channels of uint8. Raises ValueError, in one line, for bytes that are no whole image."""
    image = opened(content)
    return np.asarray(image.convert(MODES[num_channels])).reshape(image.height, image.width, num_channels)


def opened(content: bytes) -> Any:
    """Return an image as Pillow reads it, whole and upright, as its camera says. Levels of 16 bits become levels of 8.

    Raises ValueError, in one line, for bytes that are no image, a part of one, or one of 32 bits a channel.
    """
    try:
        from PIL import Image, ImageOps  # in an extra
    except ImportError as error:
        raise ValueError("images need Pillow: install attar[images]") from error
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; accepted: {MAX_PIXELS:,} at most")
        image.load()
        image = ImageOps.exif_transpose(image)
    except ValueError:
        raise
    except Exception as error:  # decoders raise anything
        raise ValueError(f"is no whole image: {one_line(error)}") from error
    if image.mode in ("I", "F"):
        raise ValueError(f"has pixels of 32 bits (mode {image.mode}), whose range is not known; accepted: 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # converted by Pillow, all above 255 of 65,535 would be white
        return Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    return image


class PixelReader:
    """Reads images as one classifier wants them."""

    def __init__(self, folder: Path, num_channels: int) -> None:
        self.num_channels = num_channels
        self._folder, self._processor = folder, load_processor(folder)
        self._num_bytes = 0

    def __call__(self, image: np.ndarray) -> Float[Tensor, "C H W"]:
        """Return the pixels of a decoded image."""
        try:
            made = self._processor(images=image, input_data_format="channels_last", return_tensors="np")["pixel_values"]
            pixels = torch.from_numpy(np.ascontiguousarray(made[0], dtype=np.float32))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except (
            Exception
        ) as error:  # a setting of another kind, a mean of other channels: whatever a processor makes of it
            raise ValueError(f"cannot be read by {PROCESSOR}: {one_line(error)}") from error
        if pixels.ndim != 3 or not bool(pixels.isfinite().all()):
            raise ValueError(f"comes out of {PROCESSOR} as numbers that are no image, of shape {tuple(pixels.shape)}")
        return pixels

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width that every image comes out in. Raises ValueError for a processor that leaves them apart."""
        try:
            shapes = {tuple(self(np.zeros((*probe, self.num_channels), np.uint8)).shape[-2:]) for probe in PROBES}
        except ValueError as error:
            raise ValueError(f"{self._folder}: an image of {self.num_channels} channels {error}") from error
        if len(shapes) != 1:
            raise ValueError(f"{PROCESSOR} makes images of several sizes, {sorted(shapes)}; accepted: one for all")
        return shapes.pop()  # type: ignore[return-value] - of two numbers

    def stored(self, data: ImageDatasetArtifact, row: ImageRow, content: ImageBytes) -> StoredPixels:
        """Return what reads one image of a data set, and keeps its pixels while there is room. Raises ValueError for other channels."""
        refuse_other_channels(self.num_channels, data.facts)  # a plan may not have known them
        return StoredPixels(self, row, content, data.facts.name or "data")

    def keeps(self, num_bytes: int) -> bool:
        """Say whether there is room to keep so many bytes, and count them."""
        if self._num_bytes + num_bytes > CACHE_BYTES:
            return False
        self._num_bytes += num_bytes
        return True


class StoredPixels:
    """The pixels of one image of a data set: read when they are asked for first."""

    def __init__(self, reader: PixelReader, row: ImageRow, content: ImageBytes, name: str) -> None:
        self._reader, self._row, self._content, self._name = reader, row, content, name
        self._pixels: Tensor | None = None

    def __call__(self) -> Float[Tensor, "C H W"]:
        if self._pixels is not None:
            return self._pixels
        try:
            pixels = self._reader(decoded(self._content(self._row), self._reader.num_channels))
        except ValueError as error:
            raise ValueError(f"{self._name}: image {self._row.id} {error}") from error
        if tuple(pixels.shape[-2:]) != self._reader.size:
            raise ValueError(
                f"{self._name}: image {self._row.id} is {pixels.shape[-2]} x {pixels.shape[-1]} and the model's processor does not resize; "
                f"accepted: {self._reader.size[0]} x {self._reader.size[1]}"
            )
        if self._reader.keeps(pixels.nbytes):
            self._pixels = pixels
        return pixels


def pixel_batches(images: Sequence[StoredPixels], size: int) -> Iterator[Float[Tensor, "N C H W"]]:
    """Yield the pixels of images in batches."""
    for start in range(0, len(images), size):
        yield torch.stack([image() for image in images[start : start + size]])


def load_processor(folder: Path) -> Any:
    """Return the processor of a folder, in its form that needs Pillow alone. Raises ValueError where there is none, or no known one."""
    path = folder / PROCESSOR
    if not path.is_file():
        raise ValueError(f"{folder} has no {PROCESSOR}, which says how images are read; accepted: a folder with one")
    _refuse_huge(path)
    try:
        from transformers import AutoImageProcessor  # a second that a plan need not wait for

        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder}: transformers cannot read images by {PROCESSOR}: {one_line(error)}") from error


def _refuse_huge(path: Path) -> None:
    """Raise ValueError for sizes that would fill memory with a single image."""
    pending: list[Any] = [read_object(path)]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            elif isinstance(value, int | float) and (key == "size" or key in SIDES) and not 0 < value <= MAX_SIDE:
                raise ValueError(f"{path}: {key} is {value}; accepted: 1 to {MAX_SIDE:,} pixels")
