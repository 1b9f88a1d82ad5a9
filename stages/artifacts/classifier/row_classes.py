"""The classes of a data set's rows: the answer of a row is the name of its class."""

from __future__ import annotations

from collections.abc import Sequence

from attar.compressors.catalogue import did_you_mean
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
