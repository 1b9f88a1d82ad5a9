"""Stage `ingest_images`: bring a data set of images in, with a train and a held-out part."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.encoder_facts import ImageDatasetFacts
from attar.registry.artifacts.fingerprint import file_digest
from attar.registry.artifacts.handles import Facts, ImageDatasetArtifact
from attar.stages.artifacts.images.dataset import BYTES, ImageRow, write_image_rows
from attar.stages.contract import Forecast, NoInputs, StageConfig, stage
from attar.stages.runtime.progress import bar

DIGITS = "digits:"


class IngestImagesConfig(StageConfig):
    """Where images come from, and which of them are held out."""

    source: str
    """npz:PATH.npz with `images` (uint8, N x H x W or N x H x W x C) and `labels`, or digits: (scikit-learn's 1,797 of 8 x 8)."""

    name: str = ""
    """Name in results and tables; empty: that of the source."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many images, in their order; 0: all."""

    heldout_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of images that are reported and that no training sees, chosen by a hash of their content."""

    @field_validator("source")
    @classmethod
    def _known_form(cls, value: str) -> str:
        scheme, _, rest = value.partition(":")
        if value == DIGITS:
            return value
        if scheme != "npz" or not rest.endswith(".npz"):
            raise ValueError(f"source {value!r} has no known form; accepted: npz:PATH.npz, {DIGITS}")
        if not confined(Path(rest).expanduser()).is_file():
            raise ValueError(f"{rest} does not exist; accepted: npz:PATH.npz with the path of a plain file")
        return value

    @property
    def path(self) -> Path:
        """The file of a npz source."""
        return confined(Path(self.source.partition(":")[2]).expanduser())


def _forecast(config: IngestImagesConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    images, labels = _read(config)
    return Forecast(_facts(images, labels))


def _outside(config: IngestImagesConfig) -> str:
    return "" if config.source == DIGITS else file_digest(config.path)


@stage("ingest_images", version=1, forecast=_forecast, outside=_outside, is_light=True)
def ingest_images(config: IngestImagesConfig, inputs: NoInputs, workdir: Path) -> ImageDatasetArtifact:
    """Bring images with their classes in, each encoded as PNG. Raises ValueError for a file that holds others."""
    from PIL import Image  # in an extra

    images, labels = _read(config)
    content = workdir / "content"
    content.mkdir(exist_ok=True)
    counter, rows, start = bar("encoding images", len(images), "images"), [], 0
    with (content / BYTES).open("wb") as stream:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = io.BytesIO()
            Image.fromarray(image.squeeze()).save(encoded, "png")
            data = encoded.getvalue()
            stream.write(data)
            digest = hashlib.sha256(image.tobytes()).digest()
            is_heldout = int.from_bytes(digest[:4], "big") < config.heldout_fraction * 2**32
            split: Literal["heldout", "train"] = "heldout" if is_heldout else "train"
            sha256 = hashlib.sha256(data).hexdigest()
            rows.append(ImageRow(str(index), int(label), start, len(data), sha256, split))
            start += len(data)
            counter.advance()
    facts = _facts(images, labels)
    write_image_rows(content, rows, [str(label) for label in range(int(facts["num_classes"]))])
    num_heldout = sum(row.split == "heldout" for row in rows)
    name = config.name or Path(config.source.partition(":")[2]).stem or config.source.strip(":")
    return ImageDatasetArtifact.at(
        content,
        ImageDatasetFacts(**facts, name=name, num_rows=len(rows), num_heldout=num_heldout, source=config.source),
    )


def _facts(images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {
        "image_size": tuple(int(side) for side in images.shape[1:3]),
        "num_channels": int(images.shape[3]),
        "num_classes": len(np.unique(labels)) if len(np.unique(labels)) == 1 else int(labels.max()) + 1,
    }


def _read(config: IngestImagesConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return (images as N x H x W x C, labels). Raises ValueError for arrays of another form."""
    if config.source == DIGITS:
        from sklearn.datasets import load_digits  # in an extra

        pixels, labels = load_digits(return_X_y=True)
        images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    else:
        try:
            with np.load(config.path, allow_pickle=False) as stored:
                images, labels = stored["images"], stored["labels"]
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{config.path} holds no images and labels: {error}; accepted: npz with both") from error
        images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} of {images.shape}; accepted: uint8, N x H x W or N x H x W x 1 or 3"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise ValueError(f"labels are {labels.dtype} of {labels.shape}; accepted: a whole number from 0 an image")
    count = config.max_rows or len(images)
    return images[:count], labels[:count].astype(np.int64)
