"""The classes of a data set's rows. The answer of a row is the name of its class, its spans are the tags of its words."""

from __future__ import annotations

from collections.abc import Sequence

from attar.compressors.catalogue import did_you_mean
from attar.compressors.data.spans import Location, Span, joined_locations, kinds_of, tags_of, word_locations
from attar.stages.artifacts.dataset.rows import Row


def class_of(row: Row, labels: Sequence[str], where: str) -> int:
    """Return the number of a row's class among the labels. By its name, or by that number, from 0, where no label is a number.

    Raises ValueError for a class that the model does not have, and for a row that is no text with a class.
    """
    if row.choices or row.similarity is not None:
        what = "choices" if row.choices else "a similarity"
        raise ValueError(
            f"{where}: row {row.id} has {what}, but the model is a classifier; accepted: the name of its class as the answer"
        )
    if row.answer in labels:
        if labels.count(row.answer) > 1:
            raise ValueError(
                f"{where}: row {row.id} is of class {row.answer[:60]!r}, which names two of the model's; accepted: a model with different names"
            )
        return labels.index(row.answer)
    if row.answer.isdecimal() and int(row.answer) < len(labels) and not any(map(str.isdecimal, labels)):
        return int(row.answer)
    given = " ".join(row.answer.split())[:60]
    raise ValueError(
        f"{where}: row {row.id} is of class {given!r}, which the model does not have.{did_you_mean(given, labels)}"
    )


def asked_text(row: Row) -> str:
    """Return the text of a row that is put into a class, or whose words are."""
    return row.text or row.question


def locations_of(row: Row) -> list[Location]:
    """Return where the words of a row's text are. Those that it came with, else runs of letters and digits, and single signs."""
    return joined_locations(row.words) if row.words else word_locations(asked_text(row))


def tags_of_row(row: Row, labels: Sequence[str], where: str) -> list[str]:
    """Return the tag of each word of a row. Raises ValueError for a row whose spans nobody knows, and for a kind that the model does not have."""
    if row.spans is None:
        raise ValueError(
            f"{where}: row {row.id} has no spans, but the model is a tagger; set columns.spans or columns.tags in ingest_data"
        )
    spans = [Span(**span) for span in row.spans]
    kinds = kinds_of(labels)
    if unknown := [span.label for span in spans if span.label not in kinds]:
        raise ValueError(
            f"{where}: row {row.id} has a span of kind {unknown[0][:60]!r}, which the model does not have.{did_you_mean(unknown[0][:60], kinds)}"
        )
    return tags_of(spans, locations_of(row), labels)
