"""Evaluate a tagger, torch or graph: F1, precision and recall of spans, words tagged right, size, seconds a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compressors.data.spans import OUTSIDE, Location, kinds_of
from attar.compressors.encode.encoder import token_rows
from attar.compressors.measure.classes import SpanCounts, kind_f1
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import AnyData, EvaluationArtifact
from attar.stages.artifacts.classifier.row_classes import locations_of, tags_of_row
from attar.stages.artifacts.dataset.measured_data import question_rows, unique_names
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.evaluate.classes.measured import measure_classes
from attar.stages.evaluate.classes.scores import SPANS
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.runtime.progress import bar, note


def evaluate_tagger(config: EvaluateConfig, inputs: EvaluateInputs, content: Path) -> EvaluationArtifact:
    """Measure how well a tagger tells spans, its size and speed. Raises ValueError, before anything runs, for rows that are none of its."""
    model: Any = inputs.model
    names, labels = unique_names(inputs.tasks, "task"), model.facts.labels
    tasks = {
        name: read_tagged(data, name, labels, config.max_rows, config.part)
        for name, data in zip(names, inputs.tasks, strict=True)
    }

    def counts(runner: Any, reader: TextReader, task: TaggedTask, name: str) -> SpanCounts:
        made = SpanCounts.of(predicted_tags(runner, reader, task, labels, config.batch_size, name), task.tags, labels)
        by_kind = (f"{kind} {kind_f1(made, index):.3f}" for index, kind in enumerate(kinds_of(labels)))
        note(f"{name}: F1 of {', '.join(by_kind)}"[:400])
        return made

    return measure_classes(config, inputs, tasks, SPANS, counts, content)


def predicted_tags(
    runner: Any, reader: TextReader, task: TaggedTask, labels: Sequence[str], batch_size: int, name: str
) -> list[list[str]]:
    """Return the likeliest tag of each word, by its first token. A word that no token begins for, as behind the cut, is outside."""
    aligned = list(reader.aligned(task.texts, task.locations))
    counter = bar(f"tagging {name}", len(task.texts), "texts")
    rows = token_rows(runner, [ids for ids, _ in aligned], batch_size * 128, counter.advance)
    if lost := sum(first < 0 for _, firsts in aligned for first in firsts):
        note(f"{name}: {lost} words have no token of their own, or stand behind {reader.max_tokens} tokens: outside")
    best = [logits.argmax(dim=-1).tolist() for logits in rows]
    return [
        [str(labels[own[first]]) if first >= 0 else OUTSIDE for first in firsts]
        for own, (_, firsts) in zip(best, aligned, strict=True)
    ]


@dataclass(frozen=True)
class TaggedTask:
    """Texts, where their words are, the tag of each word, and an id of each text."""

    texts: Sequence[str]
    locations: Sequence[Sequence[Location]]
    tags: Sequence[Sequence[str]]
    ids: Sequence[str]

    @property
    def digest(self) -> str:
        """What two evaluations can be compared on text by text."""
        return digest([list(self.texts), [list(some) for some in self.tags]])


def read_tagged(data: AnyData, name: str, labels: Sequence[str], max_rows: int, part: Split) -> TaggedTask:
    """Return a data set's texts with the tags of their words. Raises ValueError for a row without spans, or of a kind that the model has not."""
    where = f"task {name}"
    rows = [row for row in question_rows(data, max_rows, part) if locations_of(row)]
    if not rows:
        raise ValueError(f"{where}: no row has a text with its spans; set columns.spans or columns.tags in ingest_data")
    tags = [tags_of_row(row, labels, where) for row in rows]
    if all(tag == OUTSIDE for own in tags for tag in own):
        raise ValueError(
            f"{where}: none of the {len(rows)} texts has a span, so that F1 says nothing; accepted: some with spans, and texts without beside them"
        )
    return TaggedTask([row.question for row in rows], [locations_of(row) for row in rows], tags, question_ids(rows))
