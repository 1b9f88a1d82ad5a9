"""Evaluate a classifier, torch or graph: accuracy, macro F1, calibration, size, and seconds to put texts into classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compressors.encode.encoder import encoded
from attar.compressors.measure.classes import Predictions
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import AnyData, EvaluationArtifact
from attar.stages.artifacts.classifier.row_classes import class_of
from attar.stages.artifacts.dataset.measured_data import question_rows, unique_names
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.text_models import opened
from attar.stages.evaluate.classes.measured import NUM_TIMED_TEXTS, measure_classes
from attar.stages.evaluate.classes.scores import CLASSES
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.encoder import row_times, sizes_measured
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.evaluate.rankings import encoder_headline
from attar.stages.evaluate.retrieval import read_task
from attar.stages.evaluate.written import base_evaluation, write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar


def evaluate_classifier(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure a classifier of texts, or a scorer of pairs. Raises ValueError, before anything runs, for rows that are none of its."""
    model: Any = inputs.model
    return (evaluate_pair_scorer if model.facts.reads_pairs else evaluate_classes)(config, inputs, content)


def evaluate_classes(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure how well a classifier tells its classes, its size and speed. Raises ValueError, before anything runs, for classes it has not."""
    model: Any = inputs.model
    names, labels = unique_names(inputs.tasks, "task"), model.facts.labels
    tasks = {
        name: read_labelled(data, name, labels, config.max_rows, config.part)
        for name, data in zip(names, inputs.tasks, strict=True)
    }

    def predictions(runner: Any, reader: TextReader, task: LabelledTask, name: str) -> Predictions:
        counter = bar(f"classifying {name}", len(task.texts), "texts")
        logits = encoded(runner, reader(task.texts), config.batch_size * 128, counter.advance)
        return Predictions.of(logits.double().log_softmax(dim=-1).numpy(), task.labels)

    return measure_classes(config, inputs, tasks, CLASSES, predictions, content)


def evaluate_pair_scorer(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure how well a scorer orders graded pairs, its size and speed. Raises ValueError, before anything runs, for rows without a grade."""
    model: Any = inputs.model
    tasks = {
        name: read_task(data, name, None, config.max_rows, config.part)  # type: ignore[arg-type] - the forecast refuses images
        for name, data in zip(unique_names(inputs.tasks, "task"), inputs.tasks, strict=True)
    }
    if ungraded := [name for name, task in tasks.items() if not task.is_graded]:
        raise ValueError(
            f"task {ungraded[0]}: its rows have no similarity, and the model scores pairs; set columns.similarity"
        )
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    runner, reader = opened(model, config.provider, dtype, device), TextReader.of(model)
    pairs = {name: list(zip(*task.texts, strict=True)) for name, task in tasks.items()}
    evaluation = base_evaluation(model, config.part, sizes_measured(model)) | {
        # the logit of each pair, in the column where an encoder has the cosine
        "pairs": {
            name: {
                "cosines": _scores(runner, reader, some, config.batch_size, name),
                "similarities": list(tasks[name].similarities),
            }
            for name, some in pairs.items()
        },
        "retrieval": {},
        "asked": {name: task.digest for name, task in tasks.items()},
    }
    beside = opened(inputs.beside, config.provider, dtype, device) if inputs.beside is not None else None
    share = max(1, NUM_TIMED_TEXTS // len(tasks))
    evaluation["latency"] = row_times(
        inputs, runner, beside, reader([p for some in pairs.values() for p in some[:share]])
    )
    return write_evaluation(evaluation, encoder_headline(evaluation), content)


def _scores(
    runner: Any, reader: TextReader, pairs: Sequence[tuple[str, str]], batch_size: int, name: str
) -> list[float]:
    counter = bar(f"scoring {name}", len(pairs), "pairs")
    return encoded(runner, reader(pairs), batch_size * 128, counter.advance)[:, 1].tolist()


@dataclass(frozen=True)
class LabelledTask:
    """Texts, the class of each as its place among the model's labels, and an id of each."""

    texts: Sequence[str]
    labels: Sequence[int]
    ids: Sequence[str]

    @property
    def digest(self) -> str:
        """What two evaluations can be compared on text by text."""
        return digest([list(self.texts), list(self.labels)])


def read_labelled(data: AnyData, name: str, labels: Sequence[str], max_rows: int, part: Split) -> LabelledTask:
    """Return a data set's texts with their classes. Raises ValueError for a row whose class the model does not have."""
    rows = question_rows(data, max_rows, part)
    if not rows:
        raise ValueError(
            f"task {name}: no row has a text with its class; set columns.question and columns.answer in ingest_data"
        )
    classes = [class_of(row, labels, f"task {name}") for row in rows]
    return LabelledTask([row.question for row in rows], classes, question_ids(rows))
