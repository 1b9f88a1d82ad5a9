"""Evaluate an image classifier, torch or graph: accuracy by class, area under the curve, calibration, size, seconds an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.images.classifier import ImageRunner, logits_of
from attar.compressors.images.session import GraphClassifier
from attar.compressors.images.statistics import without_open_gates
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import (
    EvaluationArtifact,
    ImageClassifierArtifact,
    ImageDatasetArtifact,
    ImageGraphArtifact,
)
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.dataset.measured_data import unique_names
from attar.stages.artifacts.images.class_order import refuse_other_order
from attar.stages.artifacts.images.dataset import ImageBytes, ImageRow, part_rows, read_classes, read_image_rows
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PixelReader, StoredPixels, pixel_batches
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields, refuse_mixed
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.work_forecast import num_questions_of
from attar.stages.contract import Forecast
from attar.stages.evaluate.config import CAUSAL_FIELDS, EvaluateConfig, EvaluateInputs, refuse_provider
from attar.stages.evaluate.images.classification import Classified
from attar.stages.evaluate.images.figures import image_headline
from attar.stages.evaluate.timing import image_times
from attar.stages.evaluate.written import base_evaluation, write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, note

Model = ImageClassifierArtifact | ImageGraphArtifact
# Images that are timed.
NUM_TIMED = 64


def image_evaluation_forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Return what the evaluation will cost. Raises ValueError for what an image classifier does not do: write, and predict a next token."""
    model = inputs["model"][0]
    refuse_mixed(model, {"beside": inputs.get("beside", ())})
    refuse_causal_fields(
        IMAGES, sorted(config.model_fields_set), CAUSAL_FIELDS, "max_rows, batch_size, precision, provider, part"
    )
    if not inputs.get("tasks"):
        raise ValueError("nothing to measure quality on: give the input tasks (images of ingest_images)")
    if given := [name for name in ("original", "baseline", "text") if inputs.get(name)]:
        raise ValueError(
            f"input {given[0]} is for causal language models; accepted for an image classifier: tasks, beside"
        )
    refuse_provider(config, model, is_graph=model.get("format") == "onnx")
    refuse_unmeasured(model, inputs["tasks"])
    num_rows = num_questions_of(inputs["tasks"], config.max_rows)
    flops = 2.0 * float(model.get("num_products", 0)) * num_rows
    return Forecast(
        {"part": config.part}, num_flops=flops, peak_memory_bytes=8.0 * float(model.get("num_parameters", 0))
    )


def refuse_unmeasured(model: Facts, tasks: Sequence[Facts]) -> None:
    """Raise ValueError for images that have no class, or one beyond the model's head."""
    refuse_other_data(model, tasks)
    for data in tasks:
        if data.get("num_classes") == 0:
            raise ValueError(
                f"{data.get('name', 'tasks')} has no classes to be right about; accepted: images with labels"
            )


def evaluate_images(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure accuracy, its intervals, calibration, size and speed. Raises ValueError for an image that cannot be read, naming it."""
    model, data = cast(Model, inputs.model), cast(tuple[ImageDatasetArtifact, ...], inputs.tasks)
    refuse_unmeasured(model.facts, [some.facts for some in data])  # what a plan could not know yet
    names = unique_names(data, "task")
    reader = PixelReader(model.path, model.facts.num_channels)
    runner = opened(config, model)
    for name, some in zip(names, data, strict=True):
        refuse_other_order(model.path, read_classes(some.path), f"task {name}")
    tasks = {name: _Task.of(some, reader, config) for name, some in zip(names, data, strict=True)}
    classified = {name: task.classified(runner, config.batch_size) for name, task in tasks.items()}
    evaluation = base_evaluation(model, config.part, _size(model)) | {
        "tasks": {name: float(rows.right.mean()) for name, rows in classified.items()},
        "right": {name: rows.right.tolist() for name, rows in classified.items()},
        "num_rows": {name: len(rows.labels) for name, rows in classified.items()},
        "asked": {name: digest([row.sha256 for row in task.rows]) for name, task in tasks.items()},
        "question_ids": {name: task.ids for name, task in tasks.items()},
        "images": {name: _by_class(tasks[name], rows) for name, rows in classified.items()},
    }
    pixels = [image for task in tasks.values() for image in task.images][:NUM_TIMED]
    evaluation["latency"] = _latency(config, inputs, runner, pixels)
    headline = image_headline(evaluation, classified, {name: task.counts for name, task in tasks.items()})
    return write_evaluation(evaluation, headline, content)


def opened(config: EvaluateConfig, model: Model) -> ImageRunner:
    """Return a classifier or its graph, ready to run."""
    if model.is_graph:
        return GraphClassifier(open_session(model.path, config.provider), config.provider)
    device = pick_device()
    # convolutions are not faster in bfloat16 where matrices are, which is what `auto` measures
    precision = "float32" if config.precision == "auto" else config.precision
    classifier = load_classifier(model.path, pick_dtype(precision, device), device)
    without_open_gates(classifier)
    return classifier


class _Task:
    """The images of one data set that are measured on, and how many of each class training had."""

    def __init__(
        self, rows: list[ImageRow], images: list[StoredPixels], counts: list[int], names: tuple[str, ...]
    ) -> None:
        self.rows, self.images, self.counts, self.names = rows, images, counts, names

    @staticmethod
    def of(data: ImageDatasetArtifact, reader: PixelReader, config: EvaluateConfig) -> _Task:
        every, stored, names = read_image_rows(data.path), ImageBytes(data), read_classes(data.path)
        rows = part_rows(every, config.part)
        rows = rows[: config.max_rows] if config.max_rows else rows
        learned = Counter(row.label for row in every if row.split == "train")
        counts = [learned[index] for index in range(len(names))]
        return _Task(rows, [reader.stored(data, row, stored) for row in rows], counts, names)

    @property
    def ids(self) -> list[str]:
        """An id an image, by its bytes; the second of two alike has another."""
        seen: Counter[str] = Counter()
        ids = []
        for row in self.rows:
            seen[row.sha256] += 1
            ids.append(row.sha256[:16] + (f"-{seen[row.sha256]}" if seen[row.sha256] > 1 else ""))
        return ids

    def classified(self, runner: ImageRunner, batch_size: int) -> Classified:
        """Return the rows with their distributions."""
        counter = bar("classifying", len(self.images), "images")
        logits = logits_of(runner, pixel_batches(self.images, batch_size), counter.advance)
        labels = torch.tensor([row.label for row in self.rows])
        return Classified(labels.numpy(), logits.double().log_softmax(dim=-1).numpy())


def _by_class(task: _Task, rows: Classified) -> dict[str, Any]:
    """Return what a report shows of a task: each image's classes, and which go for which."""
    return {
        "names": list(task.names),
        "labels": rows.labels.tolist(),
        "predicted": rows.predicted.tolist(),
        "confusion": rows.confusion()[: len(task.names), : len(task.names)].tolist(),
        "training_counts": task.counts,
    }


def _size(model: Model) -> dict[str, Any]:
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    return {
        "num_parameters": model.facts.num_parameters,
        "flops_per_image": 2.0 * (model.facts.num_products or 0),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _latency(
    config: EvaluateConfig, inputs: EvaluateInputs, runner: ImageRunner, images: Sequence[StoredPixels]
) -> dict[str, Any]:
    beside = opened(config, cast(Model, inputs.beside)) if inputs.beside is not None else None
    times = image_times(runner, beside, torch.stack([image() for image in images]))
    if inputs.beside is not None:
        times["beside"]["model_fingerprint"] = inputs.beside.fingerprint
    note(
        f"{times['images_per_second']:,.0f} images a second in batches of 32, {1e3 * times['image_seconds']:.1f} ms for a single image"
    )
    return times
