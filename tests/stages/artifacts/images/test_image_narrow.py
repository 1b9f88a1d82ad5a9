"""The narrow stage on image classifiers: plain narrower folders, forecasts that come true, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.export.stage import ExportConfig, ExportInputs, export
from attar.stages.narrow.image_classifier import _calibration
from attar.stages.narrow.stage import NarrowConfig, NarrowInputs, narrow
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.images.conftest import classifier_of, ingested

FAMILIES = ["resnet", "regnet", "convnext", "convnextv2", "vit", "efficientnet"]
HALF: dict[str, Any] = {"size": {"parameter_fraction": 0.6, "multiple_of": 2}}


def made(store: Store, family: str) -> ImageClassifierArtifact:
    return classifier_of(
        store, f"random:{family}?num_blocks=4&hidden_size=8&image_size=16&num_channels=1&num_classes=4"
    )


def narrower(
    store: Store, model: ImageClassifierArtifact, data: ImageDatasetArtifact | None = None, **config: Any
) -> Any:
    inputs = NarrowInputs(model=model, data=(data,) if data else ())
    return narrow.execute(NarrowConfig(**config), inputs, store).artifact


def test_a_narrower_classifier_loads_as_anyone_would_load_it_and_is_as_forecast(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = {**HALF, "spread": "ranked", "calibration": {"num_samples": 12, "batch_size": 4}}
    forecast = narrow.forecast(NarrowConfig(**config), {"model": (classifier.facts,), "data": (images.facts,)}).facts
    artifact = narrower(store, classifier, images, **config)
    assert isinstance(artifact, ImageClassifierArtifact) and artifact.facts.num_blocks == forecast["num_blocks"]
    assert 0.4 * classifier.facts.num_parameters < artifact.facts.num_parameters <= forecast["num_parameters"]
    plain, report = AutoModelForImageClassification.from_pretrained(artifact.path, output_loading_info=True)
    assert not any(report.values())
    pixels = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.eval()(pixels).logits, load_classifier(artifact.path).classify(pixels))
    units = json.loads((artifact.path / "records" / "kept_units.json").read_text())
    assert {len(left[0]) for left in units.values()} <= set(range(1, 17)) and "of 16" in artifact.facts.widths


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_narrowed_and_then_loses_a_block(store: Store, family: str) -> None:
    model = made(store, family)
    artifact = narrower(store, model, **HALF, score="magnitude")
    assert artifact.facts.num_parameters <= 0.6 * model.facts.num_parameters
    last = max(artifact.facts.removable_blocks)
    cut = prune.execute(PruneConfig(blocks=[last]), PruneInputs(model=artifact), store).artifact
    again = narrower(store, cut, size={"parameter_fraction": 0.9, "multiple_of": 1}, score="random")
    assert again.facts.num_blocks == 3 and again.facts.removed_blocks == (last,)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_narrower_family_is_exported(store: Store, family: str, images: ImageDatasetArtifact) -> None:
    artifact = narrower(store, made(store, family), **HALF, score="magnitude")
    graph = export.execute(ExportConfig(num_prompts=8), ExportInputs(model=artifact, data=images), store).artifact
    assert graph.facts.max_logprob_difference < 1e-4


def test_heads_and_feed_forward_channels_of_a_transformer(store: Store) -> None:
    model = made(store, "vit")
    config = {"size": {"ffn_fraction": 0.5, "multiple_of": 4}, "num_removed_groups": 1, "score": "magnitude"}
    artifact = narrower(store, model, **config)
    stored = json.loads((artifact.path / "config.json").read_text())
    was = json.loads((model.path / "config.json").read_text())
    assert stored["num_attention_heads"] == was["num_attention_heads"] - 1
    assert stored["head_dim"] == was["hidden_size"] // was["num_attention_heads"]
    assert stored["intermediate_size"] == was["intermediate_size"] // 2
    assert artifact.facts.widths == "heads 1 of 2, channels 8 of 16"
    # heads as asked, the budget by the rest
    budget = {"size": {"parameter_fraction": 0.7, "multiple_of": 1}, "num_removed_groups": 1, "score": "magnitude"}
    assert narrower(store, model, **budget).facts.widths.startswith("heads 1 of 2, channels ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"equal_to_blocks": 1}}, "equal_to_blocks is 1, but blocks of an image classifier differ in size"),
        (
            {**HALF, "score": "activation"},
            "score is 'activation'; accepted for an image classifier: taylor, batch_norm",
        ),
        ({**HALF, "patch": "linear"}, "patch.kind is 'linear', which is for causal language models"),
        ({**HALF, "in_memory": "block", "score": "random"}, "in_memory is 'block', which is for causal"),
        ({"num_removed_groups": 1, "spread": "ranked"}, "spread is 'ranked', which meets a number of parameters"),
        ({**HALF, "calibration": {"max_tokens": 64}}, "max_tokens is given, but the model is an image classifier"),
    ],
)
def test_what_is_of_texts_is_refused_while_planning(
    config: dict[str, Any], message: str, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    parsed = NarrowConfig(**config)
    inputs = {"model": (classifier.facts,), **({"data": (images.facts,)} if parsed.reads_data else {})}
    with pytest.raises(ValueError, match=message):
        narrow.forecast(parsed, inputs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"ffn_fraction": 0.5}}, "size.ffn_fraction is given, but the config of this family has no number"),
        ({"num_removed_groups": 1}, "num_removed_groups is given, but the config of this family has no number for it"),
        ({"size": {"num_parameters": 50, "multiple_of": 8}}, "50 parameters cannot be reached by an even cut in"),
    ],
)
def test_what_the_family_cannot_say_is_refused(
    config: dict[str, Any], message: str, store: Store, classifier: ImageClassifierArtifact
) -> None:
    with pytest.raises(ValueError, match=message):
        narrower(store, classifier, **config, score="random")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_removed_groups": 2}, "num_removed_groups is 2, but a block has 2 heads; accepted: at most 1"),
        ({"size": {"num_ffn_channels": 16}}, "size.num_ffn_channels: 16 of 16 channels would stay; accepted: below 16"),
    ],
)
def test_all_heads_and_no_channels_are_refused(config: dict[str, Any], message: str, store: Store) -> None:
    with pytest.raises(ValueError, match=message):
        narrower(store, made(store, "vit"), **config, score="random")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"score": "batch_norm"}, "score is 'batch_norm'; accepted for a causal language model: activation"),
        ({"score": "random", "spread": "ranked"}, "spread is 'ranked', but every block of a causal language model is"),
    ],
)
def test_what_is_of_images_is_refused_of_texts(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow.forecast(NarrowConfig(size={"parameter_fraction": 0.5}, **config), {"model": ({"num_blocks": 4},)})


def test_images_for_a_text_model_and_texts_for_a_classifier_are_refused(
    classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = NarrowConfig(size={"parameter_fraction": 0.5})
    with pytest.raises(ValueError, match="input data is of images, but the model is a causal language model"):
        narrow.forecast(config, {"model": ({"num_blocks": 4},), "data": (images.facts,)})
    with pytest.raises(ValueError, match="input data is of texts, but the model is an image classifier"):
        narrow.forecast(config, {"model": (classifier.facts,), "data": ({"num_rows": 4},)})


def test_a_data_set_without_training_images_is_refused(
    classifier: ImageClassifierArtifact, images: ImageDatasetArtifact, tmp_path: Any
) -> None:
    lines = (images.path / "images.jsonl").read_text().replace('"train"', '"heldout"')
    (tmp_path / "images.jsonl").write_text(lines)
    (tmp_path / "classes.json").write_text((images.path / "classes.json").read_text())
    empty = ImageDatasetArtifact(tmp_path, images.facts, "empty", "empty")
    with pytest.raises(ValueError, match="has no training images to score on"):
        narrow.run(NarrowConfig(**HALF), NarrowInputs(model=classifier, data=(empty,)), tmp_path)


def test_images_to_score_on_are_spread_over_a_file_that_is_sorted_by_class(store: Store, tmp_path: Path) -> None:
    """Twelve of each of four classes, forty asked for: the last class is there too, as often as the first but one."""
    pixels = np.zeros((48, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "sorted.npz", images=pixels, labels=np.arange(48) // 12)
    source = f"npz:{tmp_path / 'sorted.npz'}"
    data = ingested(store, source, heldout_fraction=0.0, choose_fraction=0.0)
    _, labels = _calibration(NarrowInputs(model=made(store, "resnet"), data=(data,)), 40)
    counts = [list(labels).count(label) for label in range(4)]
    assert sum(counts) == 40 and min(counts) >= 9
