"""What a training of a model that writes nothing has not. One list for all subjects, each line with the field and what is accepted."""

from __future__ import annotations

from collections.abc import Iterator

from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER, Subject
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.teacher_config import NO_CONTEXT, policy_of

# Whose rows are no text: each counts as one token, and they are computed in float32.
OF_IMAGES = (IMAGES, DENOISER)
# Whose teacher may be drawn at random.
RANDOM_TEACHERS = (CLASSIFIER, TAGGER, IMAGES)
# What learns where that is not only the whole.
ADAPTS: dict[Subject, tuple[str, ...]] = {
    DENOISER: ("full", "guidance"),
    ENCODER: ("full", "elastic"),
    IMAGES: ("full", "elastic"),
}


def refuse_language_settings(config: FinetuneConfig, subject: Subject) -> None:
    """Raise ValueError for the first setting that says something to models that write text alone."""
    for line in (*_of_teacher(config, subject), *_of_writing(config, subject), *_of_computing(config, subject)):
        raise ValueError(line)


def refuse_no_teacher(config: FinetuneConfig, subject: Subject, *, has_teacher: bool) -> None:
    """Raise ValueError where objectives read a teacher that is neither given nor the model itself. None is recorded for these subjects."""
    if (
        has_teacher
        or config.teacher.rule is not None
        or (config.teacher.kind == "random" and subject in RANDOM_TEACHERS)
    ):
        return
    raise ValueError(
        f"teacher.kind is {config.teacher.kind!r}, but the node has no input `teacher`, and what {subject.words} learns from is not recorded; "
        "accepted: that input, or kind self"
    )


def _of_teacher(config: FinetuneConfig, subject: Subject) -> Iterator[str]:
    what, teacher = subject.words, config.teacher
    if teacher.kind == "random" and subject not in RANDOM_TEACHERS:
        yield f"teacher.kind is 'random', which draws a language model or a classifier; accepted for {what}: input, self"
    if teacher.context != NO_CONTEXT:
        yield f"teacher.context is for causal language models; accepted for {what}: none"
    if teacher.split is not None and subject is not CLASSIFIER:
        yield f"teacher.split splits classes of texts, and the model is {what}; accepted: null"


def _of_writing(config: FinetuneConfig, subject: Subject) -> Iterator[str]:
    what = subject.words
    if config.adapt.kind not in (adapts := ADAPTS.get(subject, ("full",))):
        yield f"adapt.kind is {config.adapt.kind!r}, but the model is {what}, which learns whole; accepted: {', '.join(adapts)}"
    if policy_of(config.rollout) is not None:
        yield f"rollout lets a model write, but {what} writes nothing; accepted: data"
    if config.heldout.stop_on == "quality":
        yield f"heldout.stop_on is 'quality', which checks written answers; accepted for {what}: loss"
    if config.rows.learn == "all":
        yield f"rows.learn is 'all', which is of prompts and answers; accepted for {what}: answers"
    if config.rows.augment and subject is not IMAGES:
        yield f"rows.augment changes images for a classifier of them; accepted for {what}: none"


def _of_computing(config: FinetuneConfig, subject: Subject) -> Iterator[str]:
    what, compute = subject.words, config.compute
    for name in ("vocabulary_sample", "gradient_checkpointing"):
        if getattr(compute, name):
            yield f"compute.{name} is for causal language models; accepted for {what}: none"
    if compute.num_shards > 1:
        yield f"compute.num_shards is {compute.num_shards}, but the model is {what}, which trains whole; accepted: 1"
    if subject not in OF_IMAGES:
        return
    if compute.precision not in ("auto", "float32"):
        yield f"compute.precision is {compute.precision!r}, but {what} trains in float32; accepted: auto, float32"
    if "tokens_per_step" not in config.schedule.model_fields_set:
        yield (
            f"schedule.tokens_per_step is {config.schedule.tokens_per_step} by default, which of images, one each, are too many; "
            "accepted: the images of a step, such as 64"
        )
