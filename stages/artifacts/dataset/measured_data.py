"""What a model is measured on: the questions of several tasks by name, and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AnyData, DatasetArtifact
from attar.stages.artifacts.dataset.rows import Row, Split, read_rows, split_rows


def unique_names(datasets: Sequence[AnyData], default: str) -> list[str]:
    """Return the data sets' names, numbered where two have the same. What is measured on one must not overwrite the other's."""
    names = [data.facts.name or f"{default}_{index}" for index, data in enumerate(datasets)]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


def names_ahead(datasets: Sequence[Facts]) -> tuple[str, ...]:
    """Return the data sets' names before they are there; none where any is not known, or two are alike."""
    names = tuple(str(facts.get("name", "")) for facts in datasets)
    return names if all(names) and len({*names}) == len(names) else ()


def question_rows(data: AnyData, max_rows: int = 0, part: Split = "heldout") -> list[Row]:
    """Return the questions of a task, those of a part where it has any; at most `max_rows`, 0: all."""
    rows = _questions(read_rows(data.path / "rows.jsonl"), part)
    return rows[:max_rows] if max_rows else rows


def measured_rows(data: DatasetArtifact) -> list[Row]:
    """Return all that a model is judged by. The questions and the plain text, of either the held-out rows where there are any."""
    rows = read_rows(data.path / "rows.jsonl")
    return [*_questions(rows), *_unseen(row for row in rows if row.text and not row.question)]


def _questions(rows: Sequence[Row], part: Split = "heldout") -> list[Row]:
    return _unseen((row for row in rows if row.question), part)


def _unseen(rows: Iterable[Row], part: Split = "heldout") -> list[Row]:
    """Return the rows of a part, else of the other that is not learned, else all."""
    some = list(rows)
    other: Split = "heldout" if part == "choose" else "choose"
    return split_rows(some, part) or split_rows(some, other) or some


def in_turn(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return the rows of all tasks, one of each in turn: the first few of them are of every kind."""
    return [row for together in zip_longest(*rows.values()) for row in together if row is not None]


def plain_text(data: DatasetArtifact, part: Split = "heldout") -> str:
    """Return the text rows of a data set, those of a part where it has any, as one text. Raises ValueError when there is none."""
    texts = (row for row in read_rows(data.path / "rows.jsonl") if row.text)
    text = "\n\n".join(row.text for row in _unseen(texts, part))
    if not text:
        raise ValueError("input text: the data set has no text rows; ingest it from text:PATH or a `text` column")
    return text
