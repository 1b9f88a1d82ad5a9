"""What a plan could not know of images is refused where they are read: other channels, labels beyond the head. Sizes that make no net."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.folder import refuse_no_classifier
from attar.stages.artifacts.images.pixels import decoded
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from tests.stages.artifacts.images.conftest import classifier_of, ingested
from tests.stages.artifacts.images.test_image_stages import TAUGHT

TINY = "random:resnet?num_blocks=2&hidden_size=8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "num_channels=3&num_classes=4",
            "quarters has images of 1 channels, but the model reads 3; accepted: ingest_images with channels: 3",
        ),
        ("num_channels=1&num_classes=3", "quarters has 4 classes, but the model's head 3; accepted: at most as many"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_every_stage(
    options: str, message: str, store: Store, images: ImageDatasetArtifact
) -> None:
    model = classifier_of(store, f"{TINY}&{options}")
    with pytest.raises(ValueError, match=message):
        finetune.execute(FinetuneConfig(**TAUGHT), FinetuneInputs(model=model, data=(images,)), store)
    with pytest.raises(ValueError, match=message):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=model, tasks=(images,)), store)
    if "channels" in message:
        with pytest.raises(ValueError, match=message):
            scan.execute(ScanConfig(metrics=["block_influence"]), ScanInputs(model=model, data=images), store)


def test_arrays_of_another_shape_are_refused(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", images=np.zeros((4, 8, 8, 2), np.uint8), labels=np.array([0, 1, 0, 1]))
    with pytest.raises(
        ValueError, match=r"two.npz: images is uint8 of shape \(4, 8, 8, 2\); accepted: uint8 of N x H x W"
    ):
        ingested(store, f"npz:{tmp_path / 'two.npz'}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "random:vit?image_size=18",
            "image_size is 18 and hidden_size 16; accepted for a vit: a multiple of 4, the side",
        ),
        (
            "random:vit?hidden_size=9",
            "hidden_size 9; accepted for a vit: a multiple of 4, the side of its patches, and of 2",
        ),
        ("random:resnet?num_channels=2", "num_channels is 2; accepted: 1, 3"),
        ("random:resnet?num_blocks=1", "num_blocks is 1; accepted: 2 or more"),
        ("random:resnet?num_classes=1", "num_classes is 1; accepted: 2 or more"),
        ("random:convnext?image_size=0", "image_size is '0'; accepted: 1 to 1024"),
    ],
)
def test_sizes_that_make_no_net_are_refused_while_the_recipe_loads(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IngestModelConfig(source=source, model={"kind": "image_classifier"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_channels": 4}, "num_channels is 4; accepted: 1, 3"),
        ({"num_channels": [3]}, r"num_channels is \[3\]; accepted: 1, 3"),
        (
            {"image_size": [32, 30]},
            r"image_size is \[32, 30\], which patch_size 8 does not divide; accepted: a multiple of 8",
        ),
    ],
)
def test_a_folder_of_other_images_is_refused_by_its_config(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32, "patch_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        refuse_no_classifier(tmp_path)


def test_sixteen_bits_are_scaled_and_thirty_two_refused() -> None:
    image = pytest.importorskip("PIL.Image")

    def encoded(values: np.ndarray, form: str) -> bytes:
        stream = io.BytesIO()
        image.fromarray(values).save(stream, format=form)
        return stream.getvalue()

    levels = np.array([[0, 255, 257, 30000, 65535]], np.uint16)
    for form in ("PNG", "TIFF"):
        assert decoded(encoded(levels, form), 1)[0, :, 0].tolist() == [0, 1, 1, 117, 255]
    assert decoded(encoded(levels, "PNG"), 3)[0, 3].tolist() == [117, 117, 117]
    with pytest.raises(
        ValueError, match=r"has pixels of 32 bits \(mode F\), whose range is not known; accepted: 8 or 16 bits"
    ):
        decoded(encoded(np.array([[0.0, 300.0]], np.float32), "TIFF"), 1)
