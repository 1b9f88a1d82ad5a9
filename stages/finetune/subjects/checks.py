"""What a training of each subject is refused. Told from the config and from facts, before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attar.compressors.distill.heads.views import ANSWERS
from attar.compressors.distill.losses.denoising.views import PREDICTIONS
from attar.compressors.distill.losses.objective import Objective
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import (
    CAUSAL,
    CLASSIFIER,
    DENOISER,
    ENCODER,
    IMAGES,
    TAGGER,
    Subject,
    subject_of,
)
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.subjects.classifier import check_classifier_training, reads_grades, refuse_other_views
from attar.stages.finetune.subjects.denoiser import check_denoiser_data, check_denoiser_training
from attar.stages.finetune.subjects.encoder import check_encoder_training
from attar.stages.finetune.subjects.images import check_image_training, check_image_views
from attar.stages.finetune.subjects.masked import check_masked_training
from attar.stages.finetune.subjects.pools import check_pool
from attar.stages.finetune.subjects.reasoned import check_latent_tokens

CHECKS: dict[Subject, Callable[..., None]] = {
    ENCODER: check_encoder_training,
    CLASSIFIER: check_classifier_training,
    TAGGER: partial(check_classifier_training, subject=TAGGER),
    IMAGES: check_image_training,
    DENOISER: check_denoiser_training,
}
# Views that models of a single subject give, and what a loss reads of them.
OWN_VIEWS: dict[str, tuple[Subject, str]] = {
    PREDICTIONS: (DENOISER, "what a denoiser predicts"),
    ANSWERS: (IMAGES, "what an image classifier makes of other views"),
}


def check_subject(config: FinetuneConfig, model: Facts, data: Sequence[Facts], teacher: Sequence[Facts]) -> None:
    """Raise ValueError for what a model of this subject does not learn by, or from."""
    subject, objectives = subject_of(model), config.reduction.objectives
    if config.adapt.stands_before and subject is not CAUSAL:
        raise ValueError(
            f"adapt.kind is {config.adapt.kind!r}, vectors before the prompt of a causal language model, and the model is {subject.words}; "
            "accepted: full"
        )
    check_masked_training(config, model, has_teacher=bool(teacher))
    _refuse_views_of_others(objectives, subject)
    if (check := CHECKS.get(subject)) is not None:
        check(config, has_teacher=bool(teacher) or reads_grades(config, model))
    else:
        refuse_other_views(objectives)
    check_latent_tokens(objectives, model, config.schedule.weight_decay)
    check_pool(config, model)
    refuse_other_data(model, data)
    if config.rows.classes and subject is not DENOISER:
        raise ValueError(
            f"rows.classes is {config.rows.classes}, but the model is {subject.words}; accepted for it: none"
        )
    if subject is DENOISER:
        check_denoiser_data(config, model, data, teacher)
    if subject is IMAGES:
        check_image_views(objectives, model)


def _refuse_views_of_others(objectives: Mapping[str, Objective], subject: Subject) -> None:
    for name, objective in objectives.items():
        owner, what = OWN_VIEWS.get(objective.requires.views, (subject, ""))
        if owner is not subject:
            raise ValueError(
                f"objectives.{name} reads {what}, and the model is {subject.words}; accepted: {owner.words}"
            )
