"""What an encoder is measured on. Pairs of sentences with a similarity, and questions with the texts of a corpus that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.artifacts.dataset.rows import Row, Split, read_rows

# Texts of all tasks that an encoder is timed on.
NUM_TIMED_TEXTS = 96


@dataclass(frozen=True)
class Task:
    """Two columns of texts. Graded: each line a pair with its similarity. Else questions, and a corpus with the right texts of each."""

    texts: tuple[Sequence[str], Sequence[str]]
    similarities: Sequence[float] = ()
    positives: Sequence[Set[int]] = ()

    @property
    def is_graded(self) -> bool:
        """Whether it is of pairs with a similarity."""
        return bool(self.similarities)

    def prompted(self, prompts: tuple[str, str]) -> list[str]:
        """Return all its texts, those of the first column first; questions and texts of a corpus behind their prompts."""
        first, second = ("", "") if self.is_graded else prompts
        return [*(first + text for text in self.texts[0]), *(second + text for text in self.texts[1])]

    @property
    def digest(self) -> str:
        """What two evaluations can be compared on line by line."""
        return digest([list(map(list, self.texts)), list(self.similarities), [sorted(some) for some in self.positives]])


def read_corpus(data: DatasetArtifact) -> Mapping[str, str]:
    """Return the texts of a corpus by id. Raises ValueError for rows that are no texts, or whose ids are numbers that we gave."""
    rows = [row for row in read_rows(data.path / "rows.jsonl") if row.text]
    name = data.facts.name or "text"
    if not rows:
        raise ValueError(f"input text: {name} has no text rows; a corpus is a column `text` with an id a row")
    if not data.facts.has_own_ids:
        raise ValueError(
            f"input text: the corpus {name} has no ids of its own, by which positives could name its texts: its first row is {rows[0].id}, by "
            "number; set columns.row_id in ingest_data"
        )
    return {row.id: row.text for row in rows}


def read_task(data: DatasetArtifact, name: str, corpus: Mapping[str, str] | None, max_rows: int, part: Split) -> Task:
    """Return what a data set asks of an encoder. Raises ValueError for one that asks nothing, or names a text that is not there."""
    rows = question_rows(data, max_rows, part)
    if not rows:
        raise ValueError(f"task {name}: no row has a question or a pair of sentences")
    if choices := [row.id for row in rows if row.choices]:
        raise ValueError(
            f"task {name}: row {choices[0]} has choices to answer by, which an encoder does not; accepted: pairs, questions with texts"
        )
    if any(row.similarity is not None for row in rows):
        return _pairs(rows, name)
    if any(row.positives for row in rows):
        return _named(rows, name, corpus)
    texts = list(dict.fromkeys(row.answer for row in rows))
    _refuse_single(texts, name)
    index = {text: position for position, text in enumerate(texts)}
    right: dict[str, set[int]] = {}
    for row in rows:  # a question may be asked twice: each of its answers is right
        right.setdefault(row.question, set()).add(index[row.answer])
    return Task((list(right), texts), positives=list(right.values()))


def timed_texts(tasks: Sequence[Task]) -> list[str]:
    """Return texts of all tasks in equal shares, long and short as they come."""
    share = max(1, NUM_TIMED_TEXTS // (2 * len(tasks)))
    return [text for task in tasks for column in task.texts for text in column[:share]]


def _pairs(rows: Sequence[Row], name: str) -> Task:
    similarities = [row.similarity for row in rows]
    if None in similarities or len(rows) < 2:
        lone = next((row.id for row in rows if row.similarity is None), rows[0].id)
        raise ValueError(
            f"task {name}: row {lone} stands without a similarity among pairs; accepted: two pairs at least, all graded"
        )
    if len({*similarities}) < 2:
        raise ValueError(
            f"task {name}: all {len(rows)} pairs have similarity {similarities[0]:g}, so that none is closer than another; accepted: two "
            "different ones at least"
        )
    return Task(
        ([row.question for row in rows], [row.answer for row in rows]), [float(value or 0.0) for value in similarities]
    )


def _named(rows: Sequence[Row], name: str, corpus: Mapping[str, str] | None) -> Task:
    if corpus is None:
        raise ValueError(f"task {name}: its questions name texts of a corpus by id; give the corpus as the input text")
    _refuse_single([*corpus], name)
    index = {text_id: position for position, text_id in enumerate(corpus)}
    for row in rows:
        if unknown := [text_id for text_id in row.positives if text_id not in index]:
            raise ValueError(
                f"task {name}: row {row.id} names text {unknown[0]!r}, which the corpus of {len(corpus)} texts does not hold"
            )
        if not row.positives:
            raise ValueError(f"task {name}: row {row.id} names no text that answers it; accepted: one at least")
    positives = [{index[text_id] for text_id in row.positives} for row in rows]
    return Task(([row.question for row in rows], list(corpus.values())), positives=positives)


def _refuse_single(texts: Sequence[str], name: str) -> None:
    """Raise ValueError for texts of which any encoder finds the right one."""
    if len(texts) < 2:
        raise ValueError(
            f"task {name}: there is a single text to find, which every encoder finds; accepted: two different ones at least"
        )
