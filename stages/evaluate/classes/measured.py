"""What evaluations of classifiers, of texts or words, share: every task's rows run once, sizes and times, figures written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attar.registry.artifacts.handles import EvaluationArtifact
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.text_models import opened
from attar.stages.evaluate.classes.scores import Scores, class_headline, columns_of
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.encoder import row_times, sizes_measured
from attar.stages.evaluate.written import base_evaluation, write_evaluation
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import note

# Texts of all tasks that a model is timed on.
NUM_TIMED_TEXTS = 96


class AskedTexts(Protocol):
    """Texts of a task with what is right of each, and an id of each."""

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def digest(self) -> str:
        """What two evaluations can be compared on text by text."""
        ...


def measure_classes(
    config: EvaluateConfig,
    inputs: EvaluateInputs,
    tasks: Mapping[str, AskedTexts],
    scores: Scores[Any],
    made_of: Callable[[Any, TextReader, Any, str], Any],
    content: Path,
) -> EvaluationArtifact:
    """Measure a model by what `made_of` gives of (runner, reader, task, its name), and write the evaluation."""
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    runner = opened(inputs.model, config.provider, dtype, device)
    reader = TextReader.of(inputs.model)
    made = {name: made_of(runner, reader, task, name) for name, task in tasks.items()}
    right = {name: some.right.tolist() for name, some in made.items()}
    evaluation = base_evaluation(inputs.model, config.part, sizes_measured(inputs.model)) | {
        "tasks": {name: sum(some) / len(some) for name, some in right.items()},
        "right": right,
        "num_rows": {name: len(task.texts) for name, task in tasks.items()},
        "asked": {name: task.digest for name, task in tasks.items()},
        "question_ids": {name: list(task.ids) for name, task in tasks.items()},
        scores.column: {name: columns_of(some) for name, some in made.items()},
    }
    beside = opened(inputs.beside, config.provider, dtype, device) if inputs.beside is not None else None
    evaluation["latency"] = row_times(inputs, runner, beside, reader(timed_texts(list(tasks.values()))))
    headline = class_headline(scores, evaluation)
    figures = (f"{name.replace('_', ' ')} {headline[name]:.3f}" for name in ("accuracy", *scores.figures))
    note(", ".join(figures))
    return write_evaluation(evaluation, headline, content)


def timed_texts(tasks: Sequence[AskedTexts]) -> list[str]:
    """Return texts of all tasks in equal shares, long and short as they come."""
    share_of_task = max(1, NUM_TIMED_TEXTS // len(tasks))
    return [text for task in tasks for text in task.texts[:share_of_task]]
