"""What classifiers, scorers of pairs and taggers learn: texts with their class, pairs with a grade, words with tags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from attar.compressors.distill.examples.sentences import Sentence
from attar.compressors.distill.losses.classes import UNLABELLED
from attar.compressors.distill.losses.objective import Objective
from attar.stages.artifacts.classifier.row_classes import asked_text, class_of, locations_of, tags_of_row
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.finetune.plan import TrainingPlan

# Of a row, in the data set of that name, its examples.
ExamplesOf = Callable[[Row, str], list[Sentence]]


def examples_of_rows(model: Any, plan: TrainingPlan) -> ExamplesOf:
    """Return what makes examples of rows, as the model reads them."""
    reader, labels = TextReader.of(model, plan.rows.max_tokens), model.facts.labels
    if model.facts.reads_pairs:
        return lambda row, source: [
            Sentence(ids, teacher=_grade(row, source, plan)) for ids in reader([(row.question, row.answer)])
        ]
    is_labelled = _is_labelled(plan)
    if model.facts.reads_words:
        return lambda row, source: _tagged(row, source, reader, labels if is_labelled else None)

    def texts(row: Row, source: str) -> list[Sentence]:
        text = asked_text(row)
        label = class_of(row, labels, source) if is_labelled and row.answer else UNLABELLED
        return [Sentence(ids, label=label) for ids in reader([text])] if text.strip() else []

    return texts


def refuse_unlabelled(train: Collection[Sentence], plan: TrainingPlan, model: Any) -> None:
    """Raise ValueError where an objective reads labels that no row has, or of a single class. Such a training learns to say that one alone."""
    if not _is_labelled(plan):
        return
    present = {label for sentence in train for label in sentence.labels} - {UNLABELLED}
    if not present:
        what, column = ("spans", "spans or columns.tags") if model.facts.reads_words else ("a class", "answer")
        raise ValueError(
            f"an objective reads labels, but no training row has {what}; set columns.{column} in ingest_data"
        )
    if len(present) < 2:
        what = "word" if model.facts.reads_words else "training row"
        raise ValueError(
            f"an objective reads labels, but every {what} with a class is of {model.facts.labels[present.pop()]!r}; accepted: two classes or more"
        )


def reads_labels(objective: Objective) -> bool:
    """Say whether an objective reads the rows' own labels."""
    requires = objective.requires
    return "labels" in requires.facts or "labels" in requires.sources


def _is_labelled(plan: TrainingPlan) -> bool:
    # a pool's teachers are weighed by the data's own classes
    return any(map(reads_labels, plan.reduction.objectives.values())) or plan.teaching.pool is not None


def _tagged(row: Row, source: str, reader: TextReader, labels: Sequence[str] | None) -> list[Sentence]:
    """Return a text by the first tokens of its words, with their tags where rows have labels; nothing of a text without words.

    Words behind the cut, and tokens that go on with a word, are not learned.
    """
    text, locations = asked_text(row), locations_of(row)
    if not locations:
        return []
    ((ids, firsts),) = reader.aligned([text], [locations])
    is_labelled = labels is not None and row.spans is not None
    tags = tags_of_row(row, labels, source) if labels is not None and is_labelled else [""] * len(locations)
    numbers = {tag: index for index, tag in enumerate(labels or ())}
    learned = [(first, numbers.get(tag, UNLABELLED)) for first, tag in zip(firsts, tags, strict=True) if first >= 0]
    if not learned:
        return []
    positions, own = zip(*learned, strict=True)
    return [Sentence(ids, positions=positions, tags=own)]


def _grade(row: Row, source: str, plan: TrainingPlan) -> Tensor | None:
    """Return how alike a pair is as logits of its two classes, where grades teach. Raises ValueError for a row without one, or beyond 0 to 1."""
    if not row.answer:
        raise ValueError(f"{source}: row {row.id} is no pair of texts; accepted: two texts a row")
    if not plan.teaching.reads_record:
        return None
    if row.similarity is None or not 0 <= row.similarity <= 1:
        raise ValueError(
            f"{source}: row {row.id} has similarity {row.similarity}, learned as a share; accepted: 0 to 1, as `label_pairs` writes it"
        )
    return torch.tensor([1.0 - row.similarity, row.similarity]).clamp(min=1e-6).log()
