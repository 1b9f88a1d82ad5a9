"""Train an image classifier by the same stage and loop. Images are its examples, distributions over classes its views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.compressors.distill.examples.images import LabelledImage
from attar.compressors.distill.loop.images import ImagesWithClasses
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.image_classifier import ImageStudent
from attar.compressors.distill.teachers.recorded import RecordedOutputs, recorded_classes
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.compressors.images.classifier import ImageClassifier, logits_of
from attar.compressors.images.statistics import measure_anew, without_open_gates
from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.images.class_order import refuse_other_order, stored_names
from attar.stages.artifacts.images.dataset import ImageBytes, read_classes, read_image_rows
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PROCESSOR, PixelReader, pixel_batches
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.distillation_config import uses_teacher
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.examples import ExampleRows, PartOf, assembled
from attar.stages.finetune.subjects.limits import refuse_language_settings, refuse_no_teacher
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
        if requires.views != DISTRIBUTIONS or requires.facts - {"labels"} or requires.slopes is not None:
            raise ValueError(
                f"objectives.{name} reads what an image classifier does not give; accepted: labels, and losses between distributions"
            )
    if config.rows.augment and config.teacher.run_once:
        raise ValueError(
            "teacher.run_once is true, but rows.augment shows other images at every step; accepted: false, or no augmentation"
        )


ImageRows = ExampleRows[LabelledImage]


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
    classifier = trained_classifier(inputs.model.path, plan.device)
    reader = PixelReader(inputs.model.path, classifier.model.config.num_channels)
    for data in inputs.data:
        refuse_other_order(inputs.model.path, read_classes(data.path), data.facts.name or "data")
    rows = ImageRows.read(inputs.data, _image_parts(reader), "images")
    learned = [example.pixels for example in rows.train[:: -(-len(rows.train) // NUM_MEASURED)]]
    if count := measure_anew(classifier, pixel_batches(learned, MEASURED_AT_ONCE)):  # type: ignore[arg-type]
        note(f"{count} batch norms are measured anew on {len(learned)} training images; their statistics then stay")
    student = ImageStudent(classifier)
    teacher_sources, rows = _teacher_sources(plan, inputs, student, rows)
    modality = ImagesWithClasses(plan.rows.augment, plan.seed)
    return assembled(plan, student, rows, modality, teacher_sources, workdir)


def trained_classifier(folder: Path, device: torch.device) -> ImageClassifier:
    """Return a classifier in float32 whose weights all learn; gates that are always 1 are passed by, and do not."""
    classifier = load_classifier(folder, torch.float32, device)
    without_open_gates(classifier)
    return classifier.requires_grad_(True)


def _teacher_sources(
    plan: TrainingPlan, inputs: FinetuneInputs, student: ImageStudent, rows: ImageRows
) -> tuple[dict[ViewName, TeacherSource], ImageRows]:
    """Return who speaks beside the student, and the images with the teacher's logits where it is run once."""
    sources: dict[ViewName, TeacherSource] = {}
    for name, source in plan.teaching.sources.items():
        if source.rule is not None:
            sources[name] = StudentItself(source.rule).begin(student)
        elif source.model is not None:
            _refuse_other_reading(inputs.model.path, source.model.path, name)
            refuse_other_order(inputs.model.path, stored_names(source.model.path), name)
            other = load_classifier(source.model.path, torch.float32, plan.device).requires_grad_(False)
            without_open_gates(other)
            if name == "teacher" and plan.teaching.is_run_once:
                rows = _with_logits(rows, other, plan.schedule.tokens_per_micro_batch)
                sources[name] = RecordedOutputs(recorded_classes)
            else:
                sources[name] = OtherModel(ImageStudent(other))
    return sources, rows


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
