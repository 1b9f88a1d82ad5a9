"""What is refused of a training by what its model works on. Objectives, rows and fields that mean nothing to it."""

from __future__ import annotations

from collections.abc import Sequence

from attar.registry.artifacts.handles import Facts
from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, subject_of
from attar.stages.finetune.classifier import check_classifier_training, refuse_classes
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.denoiser import check_denoiser_data, check_denoiser_training, refuse_images
from attar.stages.finetune.encoder import check_encoder_training, refuse_vectors

CHECKS = {
    ENCODER: check_encoder_training,
    CLASSIFIER: check_classifier_training,
    DENOISER: check_denoiser_training,
}


def check_subject(config: FinetuneConfig, model: Facts, data: Sequence[Facts], teacher: Sequence[Facts]) -> None:
    """Raise ValueError for what a model of this subject does not learn by, or from."""
    subject, objectives = subject_of(model), config.reduction.objectives
    if (check := CHECKS.get(subject)) is not None:
        check(config, has_teacher=bool(teacher))
    else:
        refuse_vectors(objectives)
        refuse_classes(objectives)
    if subject is DENOISER:
        check_denoiser_data(config, model, data, teacher)
    else:
        refuse_images(objectives, data)
