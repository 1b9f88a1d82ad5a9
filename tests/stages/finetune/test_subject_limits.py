"""What is of models that write is refused of the others by one list: each setting, of each subject, before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, IMAGES, Subject
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.subjects.limits import refuse_language_settings

SUBJECTS = (ENCODER, CLASSIFIER, IMAGES, DENOISER)
# What each of them is forecast from.
FORMS: dict[Subject, dict[str, Any]] = {
    ENCODER: {"pooling": "mean", "vocab_size": 9},
    CLASSIFIER: {"labels": ("a", "b"), "vocab_size": 9},
    IMAGES: {"image_size": (8, 8), "num_channels": 1, "num_classes": 2},
    DENOISER: {"sample_size": 8, "num_labels": 3, "prediction": "epsilon", "num_image_channels": 1},
}
WHOLE: dict[str, Any] = {"adapt": {"kind": "full"}, "schedule": {"tokens_per_step": 64}}


def config_of(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig(**{**WHOLE, **changes})


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": {"kind": "lora"}}, "adapt.kind is 'lora', but the model is {}, which learns whole; accepted: full"),
        ({"rollout": {"kind": "student"}}, "rollout lets a model write, but {} writes nothing"),
        ({"heldout": {"stop_on": "quality"}}, "heldout.stop_on is 'quality', which checks written answers; accepted for {}: loss"),
        ({"rows": {"learn": "all"}}, "rows.learn is 'all', which is of prompts and answers; accepted for {}: answers"),
        ({"teacher": {"kind": "input", "context": {"kind": "reference"}}}, "teacher.context is for causal language models; accepted for {}: none"),
        ({"compute": {"gradient_checkpointing": True}}, "compute.gradient_checkpointing is for causal language models; accepted for {}: none"),
        ({"compute": {"num_shards": 2}}, "compute.num_shards is 2, but the model is {}, which trains whole; accepted: 1"),
    ],
)  # fmt: skip
def test_what_means_nothing_to_a_model_that_writes_nothing_is_refused(
    subject: Subject, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        refuse_language_settings(config_of(**changes), subject)
    assert message.format(subject.words) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("subject", "changes", "message"),
    [
        (IMAGES, {"teacher": {"kind": "input", "split": {"by": "chance"}}}, "teacher.split splits classes of texts"),
        (DENOISER, {"teacher": {"kind": "input", "split": {"by": "chance"}}}, "teacher.split splits classes of texts"),
        (ENCODER, {"rows": {"augment": ["flip"]}}, "rows.augment changes images for a classifier of them"),
        (DENOISER, {"rows": {"augment": ["flip"]}}, "rows.augment changes images for a classifier of them"),
        (DENOISER, {"compute": {"precision": "bfloat16"}}, "a denoiser trains in float32; accepted: auto, float32"),
        (IMAGES, {"schedule": {}}, "tokens_per_step is 2048 by default, which of images, one each, are too many"),
        (DENOISER, {"schedule": {}}, "tokens_per_step is 2048 by default, which of images, one each, are too many"),
        (ENCODER, {"teacher": {"kind": "random"}}, "teacher.kind is 'random'"),
    ],
)
def test_a_setting_of_another_subject_is_refused(subject: Subject, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_language_settings(config_of(**changes), subject)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_plain_settings_pass(subject: Subject) -> None:
    refuse_language_settings(config_of(), subject)
    refuse_language_settings(config_of(schedule={"tokens_per_step": 64, "max_minutes": 1}), subject)


@pytest.mark.parametrize(
    ("subject", "objectives", "words"),
    [
        (ENCODER, {"similarity_rows": 1.0}, "an encoder"),
        (CLASSIFIER, {"forward_kl": 1.0}, "a classifier"),
        (IMAGES, {"forward_kl": 1.0}, "an image classifier"),
    ],
)
def test_a_teacher_that_nobody_is_is_named_in_the_plan(
    subject: Subject, objectives: dict[str, float], words: str
) -> None:
    data = {"image_size": (8, 8), "num_channels": 1, "num_classes": 2} if subject is IMAGES else {"num_rows": 4}
    with pytest.raises(ValueError, match=f"has no input `teacher`, and what {words} learns from is not recorded"):
        finetune.forecast(config_of(objectives=objectives), {"model": (FORMS[subject],), "data": (data,)})
