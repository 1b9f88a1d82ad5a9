"""Train an image classifier by the same stage and loop. Images are its examples, distributions over classes its views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.compressors.distill.examples.images import LabelledImage
from attar.compressors.distill.heads.catalogue import IMAGE_LOSSES
from attar.compressors.distill.heads.views import ANSWERS, heads_of
from attar.compressors.distill.loop.images import ImagesWithClasses
from attar.compressors.distill.losses.classes import UNLABELLED
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Objective
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.classifier import reading_features
from attar.compressors.distill.teachers.image_classifier import ImageStudent
from attar.compressors.distill.teachers.recorded import RecordedOutputs, recorded_classes
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.images.classifier import ImageClassifier, last_layer, logits_of
from attar.compressors.images.statistics import measure_anew, without_open_gates
from attar.compressors.images.within import shape_of
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageDatasetArtifact, Trainable
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.images.class_order import refuse_other_order, stored_names
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.images.folder import load_classifier, random_weights
from attar.stages.artifacts.images.pixels import PROCESSOR, PixelReader, pixel_batches
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.distillation_config import uses_teacher
from attar.stages.finetune.plan import Source, TrainingPlan
from attar.stages.finetune.subjects.elastic import elastic_training
from attar.stages.finetune.subjects.examples import ExampleRows, PartOf, assembled
from attar.stages.finetune.subjects.limits import refuse_language_settings, refuse_no_teacher
from attar.stages.finetune.subjects.pools import Pooled
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import bar, note

# Training images that batch norms are measured on, in batches of so many.
NUM_MEASURED, MEASURED_AT_ONCE = 512, 64


def check_image_training(config: FinetuneConfig, *, has_teacher: bool) -> None:
    """Raise ValueError for what is asked of a training that an image classifier's has not."""
    refuse_language_settings(config, IMAGES)
    objectives = config.reduction.objectives
    if uses_teacher(objectives, None):
        refuse_no_teacher(config, IMAGES, has_teacher=has_teacher)
    for name, objective in objectives.items():
        requires = objective.requires
        if requires.views not in (DISTRIBUTIONS, ANSWERS) or requires.facts - {"labels"} or requires.slopes is not None:
            raise ValueError(
                f"objectives.{name} reads what an image classifier does not give; accepted: labels, losses between distributions, "
                f"{', '.join(IMAGE_LOSSES)}"
            )
    if config.adapt.kind == "elastic":
        for name, objective in objectives.items():
            if objective.requires.views == ANSWERS:
                raise ValueError(
                    f"objectives.{name} has heads beside one net, but adapt.kind is 'elastic', of many; accepted: labels, losses between "
                    "distributions"
                )
        if config.teacher.kind == "pool":
            raise ValueError(
                "teacher.kind is 'pool', whose heads stand beside one net, but adapt.kind is 'elastic'; accepted: input, self"
            )
    if config.rows.augment and config.teacher.run_once:
        raise ValueError(
            "teacher.run_once is true, but rows.augment shows other images at every step; accepted: false, or no augmentation"
        )


ImageRows = ExampleRows[LabelledImage]


def check_image_views(objectives: Mapping[str, Objective], model: Facts) -> None:
    """Raise ValueError for a model whose images an objective's views cannot be made of, as far as its facts say."""
    for name, objective in objectives.items():
        if objective.requires.views == ANSWERS:
            height, width = model.get("image_size", (0, 0))
            try:
                objective.check(model.get("num_channels", 3), (height, width))  # type: ignore[attr-defined] - as its views say
            except ValueError as error:
                raise ValueError(f"objectives.{name}: {error}") from error


def _image_parts(reader: PixelReader) -> Callable[[Any, str], PartOf[LabelledImage]]:
    """Return what reads a data set's parts: images as the model reads them, with their labels."""

    def parts_of(data: ImageDatasetArtifact, name: str) -> PartOf[LabelledImage]:
        rows, content = read_image_rows(data.path), ImageBytes(data)

        def part_of(part: Split) -> list[tuple[str, LabelledImage]] | None:
            some = [row for row in rows if row.split == part]
            return [(row.id, LabelledImage(reader.stored(data, row, content), row.label)) for row in some] or None

        return part_of

    return parts_of


def build_image_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher and images in place, batch norms measured on what is learned."""
    refuse_other_data(inputs.model.facts, [data.facts for data in inputs.data])  # what a plan could not know yet
    classifier = trained_classifier(inputs.model.path, plan.device)
    reader = PixelReader(inputs.model.path, classifier.model.config.num_channels)
    for data in inputs.data:
        refuse_other_order(inputs.model.path, read_classes(data.path), data.facts.name or "data")
    rows = ImageRows.read(inputs.data, _image_parts(reader), "images")
    learned = [example.pixels for example in rows.train[:: -(-len(rows.train) // NUM_MEASURED)]]
    if count := measure_anew(classifier, pixel_batches(learned, MEASURED_AT_ONCE)):  # type: ignore[arg-type]
        note(f"{count} batch norms are measured anew on {len(learned)} training images; their statistics then stay")
    counts = Counter(example.label for example in rows.train)
    heads = _heads(classifier, reader, plan.reduction.objectives, counts)
    pool = _pooled(plan, inputs, rows)
    student = pool.with_heads(ImageStudent(classifier, heads).to(plan.device), last_layer(classifier.model))
    class_counts = tuple(counts[label] for label in range(last_layer(classifier.model).out_features))
    images = ImagesWithClasses(plan.rows.augment, plan.seed, class_counts=class_counts, widths=pool.widths)
    plan, student, modality = elastic_training(
        pool.planned(plan), student, images, lambda model: ImageStudent(ImageClassifier(model))
    )
    teacher_sources, rows = _teacher_sources(plan, inputs, student, pool.rows)
    return assembled(plan, student, rows, modality, teacher_sources | pool.sources(recorded_classes), workdir)


def _pooled(plan: TrainingPlan, inputs: FinetuneInputs, rows: ImageRows) -> Pooled:
    """Return the images with the classes that a pool's teachers tell, weighed by how well their features tell the data's own."""

    def read(model: Trainable, name: str, images: Sequence[LabelledImage]) -> tuple[Tensor, Tensor]:
        teacher = _other(plan, inputs, Source(model=model), name)
        counter = bar(f"running {name}", len(images), "images")
        pixels = pixel_batches([image.pixels for image in images], plan.schedule.tokens_per_micro_batch)  # type: ignore[misc]
        with reading_features(last_layer(teacher.model)) as features:
            logits = logits_of(teacher, pixels, counter.advance)
        return logits, torch.cat(features).float().cpu()

    return Pooled.of_classes(plan.teaching.pool, inputs.teachers, rows, read)


def _heads(
    classifier: ImageClassifier, reader: PixelReader, objectives: Mapping[str, Objective], counts: Counter[int]
) -> dict[str, nn.Module]:
    """Return what learns beside the net. Raises ValueError for images that an objective has no use for, or where it reads labels and has none."""
    if counts.keys() == {UNLABELLED}:
        for name, objective in objectives.items():
            if "labels" in objective.requires.facts | objective.requires.sources:
                raise ValueError(
                    f"objectives.{name} reads labels, but no training image has a class; accepted: labelled images, or objectives toward the teacher"
                )
    if all(objective.requires.views != ANSWERS for objective in objectives.values()):
        return {}
    check_image_views(objectives, {"num_channels": reader.num_channels, "image_size": reader.size})
    shape = shape_of(classifier.model, reader.size)
    class_counts = tuple(counts[label] for label in range(shape.num_classes))
    return heads_of(objectives, replace(shape, class_counts=class_counts))


def trained_classifier(folder: Path, device: torch.device) -> ImageClassifier:
    """Return a classifier in float32 whose weights all learn; gates that are always 1 are passed by, and do not."""
    classifier = load_classifier(folder, torch.float32, device)
    without_open_gates(classifier)
    return classifier.requires_grad_(True)


def _teacher_sources(
    plan: TrainingPlan, inputs: FinetuneInputs, student: TrainedModel, rows: ImageRows
) -> tuple[dict[ViewName, TeacherSource], ImageRows]:
    """Return who speaks beside the student, and the images with the teacher's logits where it is run once."""
    sources: dict[ViewName, TeacherSource] = {}
    for name, source in plan.teaching.sources.items():
        if source.rule is not None:
            sources[name] = StudentItself(source.rule).begin(student)
        elif source != Source():
            other = _other(plan, inputs, source, name)
            if name == "teacher" and plan.teaching.is_run_once:
                rows = _with_logits(rows, other, plan.schedule.tokens_per_micro_batch)
                sources[name] = RecordedOutputs(recorded_classes)
            else:
                sources[name] = OtherModel(ImageStudent(other))
    return sources, rows


def _other(plan: TrainingPlan, inputs: FinetuneInputs, source: Source, name: str) -> ImageClassifier:
    """Return a model that speaks beside the student; one of random weights has the shape of the student where none is given."""
    at = inputs.model.path if source.model is None else source.model.path
    _refuse_other_reading(inputs.model.path, at, name)
    refuse_other_order(inputs.model.path, stored_names(at), name)
    other = load_classifier(at, torch.float32, plan.device)
    without_open_gates(other)
    if source.random_seed is not None:
        other = random_weights(other, source.random_seed)
    return other.requires_grad_(False)


def _with_logits(rows: ImageRows, teacher: ImageClassifier, images_per_batch: int) -> ImageRows:
    """Run the teacher once over every image."""
    every = [*rows.train, *rows.heldout]
    counter = bar("running the teacher", len(every), "images")
    pixels = pixel_batches([example.pixels for example in every], images_per_batch)  # type: ignore[misc]
    logits = logits_of(teacher, pixels, counter.advance)
    taught = [replace(example, teacher=row.clone()) for example, row in zip(every, logits, strict=True)]
    return replace(rows, train=taught[: len(rows.train)], heldout=taught[len(rows.train) :])


def _refuse_other_reading(folder: Path, other: Path, who: str) -> None:
    """Raise ValueError for a model that is shown other pixels of the same image."""
    own, given = (read_object(path / PROCESSOR) for path in (folder, other))
    differs = sorted(key for key in own.keys() | given.keys() if own.get(key) != given.get(key))
    if differs:
        raise ValueError(
            f"{who} reads images otherwise than the model: {PROCESSOR} differs in {differs[0]}; accepted: one reading for both"
        )
