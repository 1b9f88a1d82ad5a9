"""Methods with heads beside the net: trained through the stages, the heads gone, the classifier the same to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.distill.examples.images import LabelledImage, image_batches
from attar.compressors.distill.teachers.image_classifier import HEADS, ImageStudent
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.within import answered, shape_of
from attar.registry.artifacts.handles import (
    DatasetArtifact,
    ImageClassifierArtifact,
    ImageDatasetArtifact,
    ModelArtifact,
)
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.dataset import read_image_rows
from attar.stages.artifacts.images.folder import load_classifier, random_weights
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.kept_weights import WEIGHTS_FILE
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.images.tiny import random_classifier
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.runtime.progress import Metric, hearing, listen
from tests.stages.artifacts.images.conftest import NUM_CLASSES, SIZE, ingested
from tests.stages.artifacts.images.test_image_stages import FAMILIES, TAUGHT, pixels_of

METHODS: dict[str, dict[str, Any]] = {
    "label_augmentation": {"labels": 1.0, "label_augmentation": 1.0},
    "diverse_experts": {"diverse_experts": 1.0},
    "stage_heads": {"labels": 1.0, "stage_heads": 1.0},
}


def config_of(method: str, num_epochs: int = 2, **changes: Any) -> FinetuneConfig:
    schedule = {**TAUGHT["schedule"], "num_epochs": num_epochs}
    return FinetuneConfig(**{**TAUGHT, "objectives": METHODS[method], "schedule": schedule, **changes})


@pytest.mark.parametrize("method", METHODS)
def test_heads_go_and_no_logit_changes(
    method: str, store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = config_of(method, rows={"augment": [{"shift": {"fraction": 0.1}}]})
    student = finetune.execute(config, FinetuneInputs(model=classifier, data=(images,)), store).artifact
    weights = load_file(student.path / WEIGHTS_FILE)
    heads = {name for name in weights if name.startswith(HEADS)}
    assert heads and any(weights[name].abs().max() > 0 for name in heads)
    healed = merge.execute(MergeConfig(), MergeInputs(base=classifier, students=(student,)), store).artifact
    assert healed.facts == classifier.facts, "not a parameter more"
    # what the student gave while its heads stood beside it, against the folder as anyone loads it
    bare = load_classifier(classifier.path, torch.float32)
    bare.model.load_state_dict({n: v for n, v in weights.items() if n not in heads}, strict=False)
    pixels = pixels_of(classifier, images)
    with torch.no_grad():
        beside = answered(bare.model, pixels).logits
    assert torch.equal(load_classifier(healed.path).classify(pixels), beside)
    assert not torch.equal(load_classifier(classifier.path).classify(pixels), beside)


@pytest.mark.parametrize("method", ["diverse_experts", "label_augmentation"])
def test_a_step_does_not_hang_on_how_it_is_split(
    method: str, store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    steps: list[dict[str, float]] = []
    for size in (16, 24):
        config = config_of(method, 1, compute={"tokens_per_micro_batch": size}).with_changes(
            schedule={"tokens_per_step": 48, "max_steps": 2}
        )
        metrics: list[Metric] = []
        with listen(hearing(metric=metrics.append)):
            finetune.execute(config, FinetuneInputs(model=classifier, data=(images,)), store)
        steps.append({f"{entry.name} {entry.step}": entry.value for entry in metrics if entry.name != "best_step"})
    assert "grad_norm 2" in steps[0] and steps[0] == pytest.approx(steps[1], rel=2e-3)


def test_a_long_tail_is_measured_by_its_rare_classes(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    source = str(images.facts.source)
    uneven = ingested(store, source, heldout_fraction=0.25, choose_fraction=0.125, tail_fraction=0.2)
    counts = [
        sum(row.label == label and row.split == "train" for row in read_image_rows(uneven.path))
        for label in range(NUM_CLASSES)
    ]
    even = [
        sum(row.label == label and row.split == "train" for row in read_image_rows(images.path))
        for label in range(NUM_CLASSES)
    ]
    assert counts == [max(1, int(own * 0.2 ** (label / 3))) for label, own in enumerate(even)]
    assert uneven.facts.num_heldout == images.facts.num_heldout
    student = finetune.execute(
        config_of("diverse_experts", 4), FinetuneInputs(model=classifier, data=(uneven,)), store
    ).artifact
    healed = merge.execute(MergeConfig(), MergeInputs(base=classifier, students=(student,)), store).artifact
    scores = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=healed, tasks=(uneven,)), store).artifact
    assert 0.0 <= float(scores.facts["tail_accuracy"]) <= 1.0  # of the one class that is a third of four


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_inner_stages(family: str) -> None:
    model = random_classifier(family, num_blocks=4, hidden_size=8, image_size=SIZE, num_classes=NUM_CLASSES)
    shape = shape_of(model, (SIZE, SIZE))
    assert shape.num_classes == NUM_CLASSES and shape.stage_widths and all(shape.stage_widths)
    pixels = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = answered(model, pixels)
        plain = model(pixel_values=pixels).logits
    assert torch.equal(answer.logits, plain) and answer.features.shape == (3, shape.width)
    assert tuple(stage.shape for stage in answer.stages) == tuple((3, width) for width in shape.stage_widths)


def test_without_heads_a_student_keeps_no_answer() -> None:
    model = random_classifier("resnet", num_blocks=2, hidden_size=8, num_classes=NUM_CLASSES)
    example = LabelledImage(lambda: torch.zeros(3, SIZE, SIZE), 0)
    (batch,) = image_batches([example], [0], 1)
    student = ImageStudent(ImageClassifier(model))
    assert student(batch).shape == (1, NUM_CLASSES) and student.answer is None


@pytest.mark.parametrize(
    ("facts", "objectives", "message"),
    [
        (
            {"image_size": (16, 32)},
            {"label_augmentation": 1.0},
            "objectives.label_augmentation: transforms is 'rotations', but the model reads images of 16 x 32; accepted: square",
        ),
        (
            {"num_channels": 1},
            {"own": {"divergence": {"stage_heads": {"transforms": "colors"}}}},
            "objectives.own: transforms is 'colors', but the model reads 1 channels; accepted: 3",
        ),
    ],
)
def test_images_that_have_no_such_views_are_refused_in_a_plan(
    facts: dict, objectives: dict, message: str, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    config = config_of("label_augmentation", objectives=objectives)
    with pytest.raises(ValueError, match=message):
        finetune.forecast(config, {"model": ({**classifier.facts, **facts},), "data": (images.facts,)})


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"label_augmentation": {"transforms": "flips"}}, "transforms is 'flips'; accepted: rotations, colors"),
        ({"label_augmentation": {"distilled": -1}}, "distilled is -1; accepted: 0 or more"),
        ({"diverse_experts": {"lambdas": [1.0]}}, r"lambdas are \[1.0\]; accepted: two numbers or more, one an expert"),
        ({"diverse_experts": {"lambdas": ["a", "b"]}}, r"lambdas are \['a', 'b'\]; accepted: two numbers or more"),
        ({"diverse_experts": {"erased": 0}}, "erased is 0; accepted: above 0, at most 1"),
        ({"stage_heads": {"temperature": 0}}, "temperature is 0; accepted: above 0"),
    ],
)
def test_a_parameter_that_is_none_is_refused_while_the_recipe_loads(component: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of("label_augmentation", objectives={"own": {"divergence": component}})


def test_two_sets_of_experts_are_refused(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    two = {
        "first": {"divergence": "diverse_experts"},
        "second": {"divergence": {"diverse_experts": {"lambdas": [0, 1]}}},
    }
    with pytest.raises(ValueError, match=r"objectives.first and objectives.second read the same head of two sizes"):
        finetune.execute(
            config_of("label_augmentation", objectives=two), FinetuneInputs(model=classifier, data=(images,)), store
        )


def test_a_target_has_nothing_to_act_on() -> None:
    own = {"divergence": "label_augmentation", "target": {"mix": {"share": 0.5}}}
    with pytest.raises(ValueError, match="brings its target; target has nothing to act on"):
        config_of("label_augmentation", objectives={"own": own})


def test_a_random_teacher_is_what_is_learned_and_the_seeds_own(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    teachers = [random_weights(load_classifier(classifier.path), seed) for seed in (1, 1, 2)]
    pixels = pixels_of(classifier, images)
    logits = [teacher.classify(pixels) for teacher in teachers]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    config = config_of("label_augmentation", 4, objectives={"forward_kl": 1.0}, teacher={"kind": "random", "seed": 1})
    student = finetune.execute(config, FinetuneInputs(model=classifier, data=(images,)), store).artifact
    healed = merge.execute(MergeConfig(), MergeInputs(base=classifier, students=(student,)), store).artifact
    target = logits[0].log_softmax(-1)

    def apart(model: ImageClassifierArtifact) -> float:
        own = load_classifier(model.path).classify(pixels).log_softmax(-1)
        return float((target.exp() * (target - own)).sum(-1).mean())

    assert apart(healed) < 0.7 * apart(classifier)


def test_views_of_images_are_refused_where_the_model_reads_text(
    model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = FinetuneConfig(objectives={"label_augmentation": 1.0})
    message = "reads what an image classifier makes of other views, and the model is a causal language model; accepted: an image classifier"
    with pytest.raises(ValueError, match=message):
        finetune.forecast(config, {"model": (model.facts,), "data": (questions.facts,)})
