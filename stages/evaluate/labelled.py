"""What a classifier is measured on: texts with the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.classifier.row_classes import class_of
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.evaluate.question_pairs import question_ids


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


def read_labelled(data: DatasetArtifact, name: str, labels: Sequence[str], max_rows: int, part: Split) -> LabelledTask:
    """Return a data set's texts with their classes. Raises ValueError for a row whose class the model does not have."""
    rows = question_rows(data, max_rows, part)
    if not rows:
        raise ValueError(
            f"task {name}: no row has a text with its class; set columns.question and columns.answer in ingest_data"
        )
    classes = [class_of(row, labels, f"task {name}") for row in rows]
    return LabelledTask([row.question for row in rows], classes, question_ids(rows))
