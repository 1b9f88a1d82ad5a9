"""Stage `select_images`: of images without labels keep the teacher's surest of each class, and none that repeats a held-out image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from attar.compressors.distill.losses.classes import UNLABELLED
from attar.compressors.images.classifier import logits_of
from attar.compressors.images.selection import nearest, top_per_class
from attar.compressors.images.statistics import without_open_gates
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.kinds.classifier_facts import ImageDatasetFacts
from attar.stages.artifacts.dataset.measured_data import unique_names
from attar.stages.artifacts.images.dataset import (
    ImageBytes,
    ImageRow,
    copied_bytes,
    read_image_rows,
    write_images,
)
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.hashes import NUM_BITS, perceptual_hashes
from attar.stages.artifacts.images.pixels import PixelReader, pixel_batches
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, metric, note

BATCH_SIZE = 64
# Which images went because they repeat a protected one, and which that is.
REPEATED = "repeated.json"


class SelectImagesConfig(StageConfig):
    """How many images of each class stay, and which repeat others."""

    num_per_class: int = Field(default=1000, ge=1)
    """Images of a class that stay at most: those that the teacher is surest of among all that it puts there. https://arxiv.org/abs/2103.05959"""

    max_distance: int = Field(default=4, ge=0, le=NUM_BITS)
    """An image whose perceptual hash of 64 bits differs from a protected image's by so many bits or fewer nearly repeats it, and goes;
    0: only those with the same hash."""


@dataclass(frozen=True, kw_only=True)
class SelectImagesInputs:
    """Images to choose from, who says what they show, and data whose held-out images none may repeat.

    Labels of the images are not read.
    """

    data: ImageDatasetArtifact
    teacher: ImageClassifierArtifact
    protected: tuple[ImageDatasetArtifact, ...]


def _forecast(config: SelectImagesConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    teacher, data = inputs["teacher"][0], inputs["data"][0]
    refuse_other_data(teacher, [{**data, "num_classes": 0}, *inputs["protected"]])
    form = {name: data[name] for name in ("image_size", "num_channels", "name") if name in data}
    flops = 2.0 * float(teacher.get("num_products") or 0) * float(data.get("num_rows") or 0)
    return Forecast({**form, "num_classes": 0}, num_flops=flops)


@stage("select_images", version=1, forecast=_forecast)
def select_images(config: SelectImagesConfig, inputs: SelectImagesInputs, workdir: Path) -> ImageDatasetArtifact:
    """Keep the images that a teacher is surest of, so many a class. No near-duplicate of a held-out image stays, and no label.

    Only training images are chosen from; those for choices and for reports stay. Raises ValueError when nothing is left.
    """
    content, data = workdir / "content", inputs.data
    rows = [row.with_changes(label=UNLABELLED) for row in read_image_rows(data.path)]
    pool = [row for row in rows if row.split == "train"]
    if not pool:
        raise ValueError(f"{data.facts.name or 'data'} has no training image to choose from")
    repeated = _repeated(config, inputs, pool)
    clean = [row for row in pool if row.id not in repeated]
    if not clean:
        raise ValueError(
            f"all {len(pool)} images repeat protected ones at max_distance {config.max_distance}; accepted: a smaller distance, or other images"
        )
    chosen = _surest(config, inputs, clean)
    stay = {row.id for row in chosen}
    left = [row for row in rows if row.split != "train" or row.id in stay]
    metric("num_repeated", len(repeated))
    metric("num_selected", len(chosen))
    note(f"kept {len(chosen)} of {len(pool)} images; {len(repeated)} nearly repeat a protected image")
    (content / REPEATED).write_text(json.dumps(list(repeated.values()), indent=1))
    facts = data.facts
    form = ImageDatasetFacts(
        image_size=facts.image_size,
        num_channels=facts.num_channels,
        num_classes=0,
        name=facts.name,
        source=facts.source,
    )
    return write_images(content, copied_bytes(data, left, content), [], form)


def _repeated(
    config: SelectImagesConfig, inputs: SelectImagesInputs, pool: Sequence[ImageRow]
) -> dict[str, dict[str, object]]:
    """Return the images that nearly repeat a protected one, by id: of which data set, which image, how many bits apart."""
    shown = [_protected_rows(data) for data in inputs.protected]
    names = unique_names(inputs.protected, "data")
    counter = bar("hashing", len(pool) + sum(map(len, shown)), "images")
    codes = perceptual_hashes(inputs.data, pool, counter.advance)
    hashed = [
        perceptual_hashes(data, rows, counter.advance) for data, rows in zip(inputs.protected, shown, strict=True)
    ]
    owners = [(name, row.id) for name, rows in zip(names, shown, strict=True) for row in rows]
    distances, indices = nearest(codes, np.concatenate(hashed))
    return {
        row.id: {"image": row.id, "of": owners[index][0], "repeats": owners[index][1], "bits": int(distance)}
        for row, distance, index in zip(pool, distances, indices, strict=True)
        if distance <= config.max_distance
    }


def _protected_rows(data: ImageDatasetArtifact) -> list[ImageRow]:
    """Return the images that are not learned; of data that is all of one part, such as a file of test images, all."""
    rows = read_image_rows(data.path)
    return [row for row in rows if row.split != "train"] or rows


def _surest(config: SelectImagesConfig, inputs: SelectImagesInputs, pool: Sequence[ImageRow]) -> list[ImageRow]:
    teacher = load_classifier(inputs.teacher.path, torch.float32, pick_device())
    without_open_gates(teacher)
    reader = PixelReader(inputs.teacher.path, inputs.teacher.facts.num_channels)
    stored = ImageBytes(inputs.data)
    counter = bar("classifying", len(pool), "images")
    pixels = pixel_batches([reader.stored(inputs.data, row, stored) for row in pool], BATCH_SIZE)
    logits = logits_of(teacher, pixels, counter.advance)
    return [pool[index] for index in top_per_class(logits, config.num_per_class)]
