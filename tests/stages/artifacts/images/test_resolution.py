"""Classifiers at another resolution: how images are read, what becomes of positions, which sizes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.images.resolution import interpolated, set_image_size
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PixelReader
from attar.stages.ingest.images.resolution import resized
from attar.stages.ingest.images.tiny import random_classifier
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.artifacts.images.conftest import classifier_of

VIT = "random:vit?num_blocks=1&hidden_size=8&image_size=16&num_classes=3"
RESNET = "random:resnet?num_blocks=2&hidden_size=8&image_size=16&num_classes=3"


def test_positions_are_interpolated_as_transformers_does() -> None:
    model: Any = random_classifier("vit", num_blocks=1, hidden_size=8, image_size=16)  # patches of 4: 4 x 4 of them
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(pixels, interpolate_pos_encoding=True).logits
        set_image_size(model, 24)
        torch.testing.assert_close(model(pixels).logits, expected)
    assert model.config.image_size == 24


def test_the_same_resolution_moves_nothing() -> None:
    positions = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolated(positions, 4), positions)
    larger = interpolated(positions, 6)
    assert larger.shape == (1, 37, 8) and torch.equal(larger[:, 0], positions[:, 0]), "the class token has no place"


@pytest.mark.parametrize("source", [VIT, RESNET])
def test_images_are_read_at_the_resolution_that_is_asked_for(source: str, store: Store) -> None:
    at = classifier_of(store, source, image_size=32)
    plain = classifier_of(store, source)
    assert tuple(at.facts.image_size) == (32, 32) and tuple(plain.facts.image_size) == (16, 16)
    assert PixelReader(at.path, 3).size == (32, 32)
    assert 3.5 < at.facts.num_products / plain.facts.num_products < 4.5, "four times the pixels"
    assert load_classifier(at.path).model.config.num_labels == 3


@pytest.mark.parametrize(
    ("reading", "side", "expected"),
    [
        ({"size": {"height": 224, "width": 224}}, 384, {"size": {"height": 384, "width": 384}}),
        ({"size": {"shortest_edge": 224}}, 112, {"size": {"shortest_edge": 112}}),
        ({"size": 224}, 384, {"size": 384}),
        # resized to 256, of which 224 in the middle stay: seven eighths at every resolution
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            448,
            {"size": {"shortest_edge": 512}, "crop_size": {"height": 448, "width": 448}},
        ),
        ({"do_resize": False}, 64, {"size": {"height": 64, "width": 64}}),
    ],
)
def test_a_processor_resizes_in_its_own_words(reading: dict[str, Any], side: int, expected: dict[str, Any]) -> None:
    assert resized(reading, side) == {**reading, **expected, "do_resize": True}


def test_a_resolution_that_patches_do_not_divide_is_refused(store: Store, tmp_path: Path) -> None:
    line = "image_size is 30, which patch_size 4 does not divide; accepted: a multiple of 4"
    with pytest.raises(ValueError, match=line):
        IngestModelConfig(source=VIT, model={"kind": "image_classifier", "image_size": 30})
    folder = classifier_of(store, VIT).path
    with pytest.raises(ValueError, match=line):
        IngestModelConfig(source=f"folder:{folder}", model={"kind": "image_classifier", "image_size": 30})
    assert json.loads((folder / "config.json").read_text())["patch_size"] == 4
    with pytest.raises(ValueError, match=line):
        set_image_size(random_classifier("vit", num_blocks=1, hidden_size=8, image_size=16), 30)


def test_a_plan_tells_the_resolution_and_not_what_it_changes(store: Store) -> None:
    folder = classifier_of(store, VIT).path
    config = IngestModelConfig(source=f"folder:{folder}", model={"kind": "image_classifier", "image_size": 32})
    facts = ingest_model.forecast(config, {}).facts
    assert tuple(facts["image_size"]) == (32, 32) and "num_products" not in facts
