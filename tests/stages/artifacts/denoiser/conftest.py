"""A small random denoiser, and images of three shades that it can learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.registry.artifacts.handles import DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.images.stage import IngestImagesConfig, ingest_images
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge

pytest.importorskip("diffusers", reason="in the extra `images`")
SOURCE = "random:unet?sample_size=8&num_classes=3&width=8"
TRAINING: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "schedule": {"num_epochs": 20, "max_steps": 4, "tokens_per_step": 32, "learning_rate": 2e-3},
    "compute": {"precision": "float32"},
    "heldout": {"every": 100, "patience": 0},
}
# What the facts of such a denoiser and of the images say.
MODEL = {
    "sample_size": 8, "num_labels": 4, "prediction": "v_prediction", "num_image_channels": 1, "num_timesteps": 1000,
}  # fmt: skip
DATA = {"image_size": (8, 8), "num_channels": 1, "num_classes": 3, "name": "shades"}


def images_of(store: Store, path: Path, images: np.ndarray, labels: np.ndarray, **config: Any) -> ImageDatasetArtifact:
    np.savez(path, images=images, labels=labels)
    given = IngestImagesConfig(source=f"npz:{path}", **{"heldout_fraction": 0.3, **config})
    return ingest_images.execute(given, NoInputs(), store).artifact


def shades(count: int = 150, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return images of a shade of their class each, a little uneven."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(-20, 20, (count, side, side))
    return (labels[:, None, None] * 90 + 30 + noise).astype(np.uint8), labels


def denoiser_of(store: Store, source: str = SOURCE, **config: Any) -> DenoiserArtifact:
    given = IngestModelConfig(source=source, model={"kind": "denoiser"}, **config)
    return ingest_model.execute(given, NoInputs(), store).artifact  # type: ignore[return-value]


def trained(
    store: Store,
    model: DenoiserArtifact,
    data: ImageDatasetArtifact,
    teacher: DenoiserArtifact | None = None,
    **config: Any,
) -> DenoiserArtifact:
    inputs = FinetuneInputs(model=model, data=(data,), teacher=teacher)
    student = finetune.execute(FinetuneConfig(**{**TRAINING, **config}), inputs, store).artifact
    return merge.execute(MergeConfig(method="fold"), MergeInputs(base=model, students=(student,)), store).artifact  # type: ignore[return-value]


@pytest.fixture
def images(store: Store, tmp_path: Path) -> ImageDatasetArtifact:
    return images_of(store, tmp_path / "shades.npz", *shades())


@pytest.fixture
def denoiser(store: Store) -> DenoiserArtifact:
    return denoiser_of(store)
