"""A small random classifier, and images that it can learn: blocks of two brightnesses at places that tell the class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact, ImageGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.images.stage import IngestImagesConfig, ingest_images
from attar.stages.ingest.model import IngestModelConfig, ingest_model

NUM_CLASSES, SIZE = 4, 16


def image_arrays(count: int, seed: int = 0, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return images whose bright quarter is their class, in noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % NUM_CLASSES
    images = generator.integers(0, 120, (count, SIZE, SIZE))
    half = SIZE // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    images = images.astype(np.uint8)
    return (images if channels == 1 else np.repeat(images[..., None], channels, axis=-1)), labels


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def ingested(store: Store, source: str, **config: Any) -> ImageDatasetArtifact:
    return ingest_images.execute(IngestImagesConfig(source=source, **config), NoInputs(), store).artifact


def classifier_of(store: Store, source: str, **options: Any) -> ImageClassifierArtifact:
    config = IngestModelConfig(source=source, model={"kind": "image_classifier", **options})
    return ingest_model.execute(config, NoInputs(), store).artifact


@pytest.fixture(scope="session")
def images(shared_store: Store, session_folder: Path) -> ImageDatasetArtifact:
    path = session_folder / "quarters.npz"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            pixels, labels = image_arrays(96)
            np.savez(path, images=pixels, labels=labels)
    return ingested(shared_store, f"npz:{path}", heldout_fraction=0.25, choose_fraction=0.125)


@pytest.fixture(scope="session")
def classifier(shared_store: Store) -> ImageClassifierArtifact:
    source = f"random:resnet?num_blocks=4&hidden_size=8&image_size={SIZE}&num_channels=1&num_classes={NUM_CLASSES}"
    return classifier_of(shared_store, source)


@pytest.fixture(scope="session")
def image_graph(
    shared_store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> ImageGraphArtifact:
    from attar.stages.export.stage import ExportConfig, ExportInputs, export

    inputs = ExportInputs(model=classifier, data=images)
    return export.execute(ExportConfig(num_prompts=16), inputs, shared_store).artifact
