"""Images without labels: they come in, near-duplicates of held-out images go, the teacher's surest stay, and nothing reads a class of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.hashes import perceptual_hashes
from attar.stages.artifacts.images.pixels import decoded
from attar.stages.evaluate.config import EvaluateConfig
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.images.stage import IngestImagesConfig
from attar.stages.label.select_images import REPEATED, SelectImagesConfig, SelectImagesInputs, select_images
from tests.stages.artifacts.images.conftest import SIZE, image_arrays, ingested, png
from tests.stages.artifacts.images.test_image_data import table

LABEL_FREE: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"label_free": {"divergence": "jensen_shannon"}},
    "schedule": {"num_epochs": 1, "tokens_per_step": 16},
    "compute": {"tokens_per_micro_batch": 16},
    "heldout": {"every": 10, "patience": 0},
}
PLANTED = 6


@pytest.fixture(scope="module")
def pool(shared_store: Store, images: ImageDatasetArtifact, session_folder: Path) -> ImageDatasetArtifact:
    """Forty other images, and six held-out ones made a little lighter."""
    stored = ImageBytes(images)
    heldout = [row for row in read_image_rows(images.path) if row.split == "heldout"][:PLANTED]
    copies = [np.clip(decoded(stored(row), 1)[..., 0].astype(int) + 3, 0, 255).astype(np.uint8) for row in heldout]
    path = session_folder / "pool.npz"
    np.savez(path, images=np.concatenate([image_arrays(40, seed=9)[0], np.stack(copies)]))
    return ingested(shared_store, f"npz:{path}", columns={"label": ""}, heldout_fraction=0.0)


def selected(store: Store, pool: Any, teacher: Any, protected: Any, **config: Any) -> ImageDatasetArtifact:
    inputs = SelectImagesInputs(data=pool, teacher=teacher, protected=(protected,))
    return select_images.execute(SelectImagesConfig(**config), inputs, store).artifact


def test_planted_copies_of_held_out_images_go_and_no_label_stays(
    store: Store, pool: ImageDatasetArtifact, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    pytest.importorskip("imagehash", reason="in the extra `images`")
    assert pool.facts.num_classes == 0 and {row.label for row in read_image_rows(pool.path)} == {-1}
    left = selected(store, pool, classifier, images, num_per_class=1000, max_distance=6)
    names = {f"{index:06d}" for index in range(40, 40 + PLANTED)}
    repeated = json.loads((left.path / REPEATED).read_text())
    assert names <= {entry["image"] for entry in repeated}
    assert all(entry["of"] == images.facts.name and entry["bits"] <= 6 for entry in repeated)
    rows, stored = read_image_rows(left.path), ImageBytes(left)
    assert names.isdisjoint(row.id for row in rows) and {row.label for row in rows} == {-1}
    assert len(rows) + len(repeated) == 40 + PLANTED and read_classes(left.path) == ()
    assert all(decoded(stored(row), 1).shape == (SIZE, SIZE, 1) for row in rows)
    few = selected(store, pool, classifier, images, num_per_class=2, max_distance=6)
    assert 2 <= (few.facts.num_rows or 0) <= 8
    # they are learned by a teacher's distributions, and by no label
    config = FinetuneConfig(**LABEL_FREE)
    assert finetune.execute(config, FinetuneInputs(model=classifier, data=(few,), teacher=classifier), store).artifact
    labelled = FinetuneConfig(**{**LABEL_FREE, "objectives": {"labels": 1.0}})
    with pytest.raises(ValueError, match=r"objectives.labels reads labels, but no training image has a class"):
        finetune.execute(labelled, FinetuneInputs(model=classifier, data=(few,)), store)


def test_images_without_classes_are_not_evaluated(
    store: Store, pool: ImageDatasetArtifact, classifier: ImageClassifierArtifact
) -> None:
    with pytest.raises(ValueError, match="pool has no classes to be right about; accepted: images with labels"):
        evaluate.forecast(EvaluateConfig(), {"model": (classifier.facts,), "tasks": (pool.facts,)})


def test_what_is_of_classes_is_refused_without_them() -> None:
    for field in ({"classes": ["a", "b"]}, {"tail_fraction": 0.1}):
        with pytest.raises(ValueError, match="is given, but columns.label is empty: the images have no classes"):
            IngestImagesConfig(source="digits:", columns={"label": ""}, **field)


def test_a_teacher_of_other_channels_is_refused_before_anything_is_read(
    classifier: ImageClassifierArtifact, images: ImageDatasetArtifact, pool: ImageDatasetArtifact
) -> None:
    facts = {"data": (pool.facts,), "teacher": ({**classifier.facts, "num_channels": 3},), "protected": (images.facts,)}
    with pytest.raises(ValueError, match="has images of 1 channels, but the model reads 3"):
        select_images.forecast(SelectImagesConfig(), facts)


def test_drawings_on_transparency_have_hashes_of_their_own(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("imagehash", reason="in the extra `images`")
    drawings = np.zeros((2, 32, 32, 4), np.uint8)  # black throughout: what is drawn is what is opaque
    drawings[0, 2:30, 2:12, 3] = drawings[1, 14:20, 16:30, 3] = 255
    encoded = [png(drawing) for drawing in drawings]
    data = ingested(store, table(tmp_path / "drawn.parquet", encoded, [0, 1]), heldout_fraction=0.0)
    codes = perceptual_hashes(data, read_image_rows(data.path))
    assert bin(int(codes[0]) ^ int(codes[1])).count("1") > 10
