"""An image classifier through the stages: scanned, cut, taught, folded, exported, quantized, measured. What is of texts is refused first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attar.compressors.images.session import GraphClassifier
from attar.registry.artifacts.handles import (
    DatasetArtifact,
    ImageClassifierArtifact,
    ImageDatasetArtifact,
    ImageGraphArtifact,
    ModelArtifact,
)
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.dataset import ImageBytes, part_rows, read_image_rows
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PixelReader, pixel_batches
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.stage import ExportConfig, ExportInputs, export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import COST_TABLE, TABLE, read_costs, read_scores
from tests.stages.artifacts.images.conftest import classifier_of

TAUGHT: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"labels": 1.0},
    "schedule": {"num_epochs": 10, "learning_rate": 3e-3, "tokens_per_step": 16},
    "compute": {"tokens_per_micro_batch": 16},
    "heldout": {"every": 10, "patience": 0},
}


def pixels_of(model: ImageClassifierArtifact | ImageGraphArtifact, data: ImageDatasetArtifact) -> torch.Tensor:
    rows, stored = part_rows(read_image_rows(data.path), "heldout"), ImageBytes(data)
    reader = PixelReader(model.path, model.facts.num_channels)
    return next(pixel_batches([reader.stored(data, row, stored) for row in rows], 1000))


def logits(model: ImageClassifierArtifact, data: ImageDatasetArtifact) -> torch.Tensor:
    return load_classifier(model.path).classify(pixels_of(model, data))


def cut(store: Store, model: ImageClassifierArtifact, **config: Any) -> ImageClassifierArtifact:
    return prune.execute(PruneConfig(**config), PruneInputs(model=model), store).artifact


def trained(
    store: Store, model: ImageClassifierArtifact, data: ImageDatasetArtifact, taught_by: Any = None, **config: Any
) -> ImageClassifierArtifact:
    inputs = FinetuneInputs(model=model, data=(data,), teacher=taught_by)
    student = finetune.execute(FinetuneConfig(**{**TAUGHT, **config}), inputs, store).artifact
    return merge.execute(MergeConfig(), MergeInputs(base=model, students=(student,)), store).artifact


@pytest.fixture(scope="session")
def original(
    shared_store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> ImageClassifierArtifact:
    return trained(shared_store, classifier, images)


def accuracy(model: ImageClassifierArtifact, data: ImageDatasetArtifact) -> float:
    labels = torch.tensor([row.label for row in part_rows(read_image_rows(data.path), "heldout")])
    return float((logits(model, data).argmax(dim=-1) == labels).float().mean())


def test_labels_are_learned_from_scratch_and_folded(
    classifier: ImageClassifierArtifact, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    assert isinstance(original, ImageClassifierArtifact) and original.facts == classifier.facts
    assert accuracy(classifier, images) < 0.6 and accuracy(original, images) > 0.9


def test_a_scan_tells_which_block_changes_least_and_prune_takes_it(
    store: Store, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = ScanConfig(metrics=["block_influence"], calibration={"num_samples": 24, "batch_size": 8})
    artifact = scan.execute(config, ScanInputs(model=original, data=images), store).artifact
    scores = read_scores(artifact.path / TABLE, "block_influence")
    # 2 changes width and size, and of the first two, which make a stage, the one that does more stays
    can_go = [index for index in range(4) if np.isfinite(scores[index, 1])]
    assert original.facts.removable_blocks == (0, 1, 3) and can_go in ([0, 3], [1, 3])
    assert read_costs(artifact.path / COST_TABLE, "parameters").total == original.facts.num_parameters
    chosen = PruneConfig(num_blocks=1, metric="block_influence", choice="free")
    pruned = prune.execute(chosen, PruneInputs(model=original, scan=artifact), store).artifact
    assert pruned.facts.removed_blocks == (min(can_go, key=lambda index: scores[index, 1]),)


FAMILIES = ["resnet", "regnet", "convnext", "convnextv2", "vit", "efficientnet"]


def cut_family(store: Store, family: str) -> ImageClassifierArtifact:
    made = classifier_of(
        store, f"random:{family}?num_blocks=4&hidden_size=8&image_size=16&num_channels=1&num_classes=4"
    )
    last = max(made.facts.removable_blocks)
    pruned = cut(store, made, blocks=[last])
    assert pruned.facts.num_blocks == 3 and pruned.facts.removed_blocks == (last,)
    return pruned


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut(store: Store, family: str) -> None:
    assert cut_family(store, family).facts.num_classes == 4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported(store: Store, family: str, images: ImageDatasetArtifact) -> None:
    pruned = cut_family(store, family)
    graph = export.execute(ExportConfig(num_prompts=8), ExportInputs(model=pruned, data=images), store).artifact
    assert graph.facts.max_logprob_difference < 1e-4 and graph.facts.image_size == (16, 16)


def test_a_cut_classifier_learns_its_whole_self_s_distributions(
    store: Store, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    pruned = cut(store, original, blocks=[3])
    healed = trained(store, pruned, images, original, objectives={"forward_kl": 1.0}, rows={"augment": ["shift"]})
    goal = logits(original, images).log_softmax(dim=-1)
    apart = [
        float((goal.exp() * (goal - logits(model, images).log_softmax(dim=-1))).sum(dim=-1).mean())
        for model in (pruned, healed)
    ]
    assert apart[1] < 0.5 * apart[0] and healed.facts.removed_blocks == (3,)
    assert healed.facts.num_parameters < original.facts.num_parameters


def test_a_teacher_run_once_teaches_as_a_live_one(
    store: Store, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    pruned = cut(store, original, blocks=[1])
    short = {"objectives": {"forward_kl": 1.0}, "schedule": {"max_steps": 3, "tokens_per_step": 16}}
    first, second = (
        trained(store, pruned, images, original, **short, teacher={"kind": "input", "run_once": run_once})
        for run_once in (True, False)
    )
    assert torch.allclose(logits(first, images), logits(second, images), atol=1e-4)


def test_a_step_is_the_same_in_parts(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    short = {"schedule": {"max_steps": 3, "tokens_per_step": 32}, "rows": {"augment": ["shift", "crop", "erase"]}}
    whole, parts = (
        trained(store, classifier, images, **short, compute={"tokens_per_micro_batch": size}) for size in (32, 16)
    )
    assert torch.allclose(logits(whole, images), logits(parts, images), atol=1e-4)


def test_a_graph_in_float16_has_the_distributions_nearly(
    store: Store, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = ExportConfig(format={"kind": "onnx", "precision": "float16"}, num_prompts=8)  # type: ignore[arg-type]
    half = export.execute(config, ExportInputs(model=original, data=images), store).artifact
    assert half.facts["precision"] == "float16" and 0 < float(half.facts["max_logprob_difference"]) < 0.04  # type: ignore[arg-type]


def test_the_graph_gives_the_logits_and_its_integers_nearly(
    store: Store, original: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    graph = export.execute(ExportConfig(num_prompts=24), ExportInputs(model=original, data=images), store).artifact
    assert isinstance(graph, ImageGraphArtifact)
    session = GraphClassifier(open_session(graph.path), "CPUExecutionProvider")
    pixels = pixels_of(graph, images)
    assert torch.allclose(session.classify(pixels[:5]), logits(original, images)[:5], atol=1e-4)
    limits = {"kind": "classes", "max_kl_nats": 0.2}
    for kind in ("static", "dynamic"):
        config = QuantizeConfig(limits=limits, weights={"kind": kind}, measured={"num_samples": 48})
        small = quantize.execute(config, QuantizeInputs(model=graph, data=images), store).artifact
        assert small.facts.quantization == f"{kind} int8" and small.facts.agreement >= 0.9
        assert 0 < small.facts.size_fraction < 1 and small.facts.image_size == (16, 16)
    tight = QuantizeConfig(limits={"kind": "classes", "max_kl_nats": 1e-9}, weights={"kind": "static"})
    with pytest.raises(ValueError, match="the quantized classifier loses too much: kl_nats"):
        quantize.execute(tight, QuantizeInputs(model=graph, data=images), store)


def test_an_evaluation_tells_accuracy_by_class_calibration_and_times(
    store: Store, original: ImageClassifierArtifact, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = EvaluateConfig(precision="float32", batch_size=8)
    measured = [
        evaluate.execute(config, EvaluateInputs(model=model, tasks=(images,), beside=beside), store).artifact
        for model, beside in ((original, classifier), (classifier, None))
    ]
    facts, content = measured[0].facts, evaluation_of(measured[0])
    assert facts["accuracy"] == pytest.approx(accuracy(original, images))
    assert facts["accuracy_low"] <= facts["accuracy"] <= facts["accuracy_high"] and facts["num_questions"] == 24
    confusion = np.array(content["images"]["quarters"]["confusion"])
    assert confusion.sum() == 24 and np.trace(confusion) == round(24 * facts["accuracy"])
    assert 0.5 < facts["auroc"] <= 1 and 0 <= facts["calibration_error"] < 1
    assert facts["image_seconds"] > 0 and facts["flops_per_image"] == 2.0 * original.facts.num_products
    ratios = paired_ratios(content, evaluation_of(measured[1]))
    assert ratios["accuracy"].value > 1 and "image_seconds_32" in ratios
    assert (
        "beside" in content["latency"] and content["latency"]["beside"]["model_fingerprint"] == classifier.fingerprint
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"adapt": {"kind": "lora"}}, "adapt.kind is 'lora', but the model is an image classifier"),
        (
            {"objectives": {"embedding_distance": 1.0}, "teacher": {"kind": "self", "rule": {"kind": "start"}}},
            "embedding_distance reads what an image classifier",
        ),
        ({"objectives": {"forward_kl": 1.0}}, "the node has no input `teacher`"),
        ({"schedule": {"num_epochs": 1}}, "schedule.tokens_per_step is 2048 by default"),
        ({"heldout": {"stop_on": "quality"}}, "stop_on is 'quality', which checks written answers"),
        ({"compute": {"precision": "bfloat16"}}, "compute.precision is 'bfloat16'"),
        ({"rollout": {"kind": "student"}, "objectives": {"forward_kl": 1.0}}, "teacher|rollout"),
    ],
)
def test_what_an_image_classifier_cannot_learn_by_is_refused(
    classifier: ImageClassifierArtifact, images: ImageDatasetArtifact, config: dict[str, Any], message: str
) -> None:
    given = {"model": (classifier.facts,), "data": (images.facts,)}
    with pytest.raises(ValueError, match=message):
        finetune.forecast(FinetuneConfig(**{**TAUGHT, **config}), given)


def test_images_and_classifiers_that_do_not_fit_are_refused_before_anything_runs(
    store: Store,
    classifier: ImageClassifierArtifact,
    images: ImageDatasetArtifact,
    model: ModelArtifact,
    questions: DatasetArtifact,
) -> None:
    config = FinetuneConfig(**TAUGHT)
    for facts, data, message in (
        ({**classifier.facts, "num_classes": 3}, images.facts, "quarters has 4 classes, but the model's head 3"),
        ({**classifier.facts, "num_channels": 3}, images.facts, "images of 1 channels, but the model reads 3"),
        (classifier.facts, questions.facts, "is of texts, but the model is an image classifier; accepted: images"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.forecast(config, {"model": (facts,), "data": (data,)})
    with pytest.raises(ValueError, match="is of images, but the model is a causal language model"):
        finetune.forecast(FinetuneConfig(), {"model": (model.facts,), "data": (images.facts,)})
    with pytest.raises(ValueError, match="block 2 changes width or size.*accepted: 0, 1, 3"):
        cut(store, classifier, blocks=[2])
    with pytest.raises(ValueError, match="choice is 'window'; accepted for an image classifier: choice free"):
        prune.forecast(
            PruneConfig(num_blocks=1), {"model": (classifier.facts,), "scan": ({"metrics": (), "num_blocks": 4},)}
        )
    facts = {**classifier.facts, "format": "onnx"}
    with pytest.raises(ValueError, match="limits.kind is 'text', but the input is the graph of an image classifier"):
        quantize.forecast(QuantizeConfig(limits={"max_kl_nats": 1}), {"model": (facts,), "data": (images.facts,)})
