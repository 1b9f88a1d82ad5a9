"""An elastic vit through the stages: learned with one of its parts a step, led by its own running mean, and taken out in several sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.images.conftest import classifier_of
from tests.stages.artifacts.images.test_image_stages import TAUGHT, accuracy, trained

SPACE: dict[str, Any] = {"blocks": [2], "width": [16], "channels": [32]}
POA: dict[str, Any] = {
    **TAUGHT,
    "adapt": {"kind": "elastic", "space": SPACE, "num_drawn": 1, "has_smallest": False, "whole_share": 0.6},
    "objectives": {
        "labels": 1.0,
        "mean_teacher": {"divergence": "forward_kl", "weight": 0.5},
        "toward_whole": {"divergence": "forward_kl", "target": {"identity": {"of": "anchor"}}, "weight": 0.5},
    },
    "teacher": {"kind": "self", "rule": {"kind": "ema", "decay": 0.9}},
    "anchor": {"kind": "live"},
}
IMAGE: dict[str, Any] = {"image_size": (16, 16), "num_channels": 1, "num_classes": 4, "num_blocks": 3}


@pytest.fixture(scope="session")
def vit(shared_store: Store) -> ImageClassifierArtifact:
    sizes = "num_blocks=3&hidden_size=32&image_size=16&num_channels=1&num_classes=4"
    return classifier_of(shared_store, f"random:vit?{sizes}")


@pytest.fixture(scope="session")
def supernet(
    shared_store: Store, vit: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> ImageClassifierArtifact:
    return trained(shared_store, vit, images, **POA)


def test_sizes_of_one_training_are_plain_classifiers(
    store: Store, vit: ImageClassifierArtifact, supernet: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    assert supernet.facts.elastic_blocks == (2,) and accuracy(supernet, images) > 0.7
    for budget in (0.7, 0.3):
        config = PruneConfig(elastic={"budget": {"parameters": budget}})
        small = prune.execute(config, PruneInputs(model=supernet, data=(images,)), store).artifact
        record = json.loads((small.path / "records" / "search.json").read_text())
        assert small.facts.num_parameters <= budget * vit.facts.num_parameters
        assert small.facts.num_blocks == record["taken"]["blocks"] and "elastic_blocks" not in small.facts
        assert record["candidates"][0]["proxy_nats"] == min(some["proxy_nats"] for some in record["candidates"])
        untrained = prune.execute(
            PruneConfig(elastic={"subnet": record["taken"]}), PruneInputs(model=vit), store
        ).artifact
        assert accuracy(small, images) >= accuracy(untrained, images) + 0.2


def test_heads_of_a_loss_and_nets_of_stages_are_refused(store: Store, images: ImageDatasetArtifact) -> None:
    given = {"model": ({**IMAGE, "architecture": "resnet"},), "data": ({**IMAGE, "num_rows": 96},)}
    with pytest.raises(ValueError, match="adapt.space has sub-networks, but the model is a resnet, of several stages"):
        finetune.forecast(FinetuneConfig(**POA), given)
    heads = FinetuneConfig(
        **{**POA, "objectives": {"stage_heads": 1.0}, "teacher": {"kind": "auto"}, "anchor": {"kind": "none"}}
    )
    with pytest.raises(
        ValueError, match="objectives.stage_heads has heads beside one net, but adapt.kind is 'elastic'"
    ):
        finetune.forecast(heads, {**given, "model": (IMAGE,)})
    texts = {"model": (IMAGE,), "data": ({"num_rows": 4},)}
    with pytest.raises(ValueError, match="input data is of texts, but the model is an image classifier"):
        prune.forecast(PruneConfig(elastic={"budget": {"parameters": 0.5}}), texts)
    classes = {**IMAGE, "num_classes": 7}
    taught = {"model": (IMAGE,), "teacher": (classes,), "data": ({**IMAGE, "num_rows": 96},)}
    with pytest.raises(ValueError, match="input teacher tells 7 classes, but model tells"):
        prune.forecast(PruneConfig(elastic={"budget": {"parameters": 0.5}}), taught)
