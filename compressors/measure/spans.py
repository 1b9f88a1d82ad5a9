"""How well a tagger tells the spans of texts. A span is right when its kind, its first word and its last are, as in conlleval and seqeval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attar.compressors.data.spans import kinds_of, spans_of


@dataclass(frozen=True)
class SpanCounts:
    """Spans of N texts and K kinds that are right, predicted and gold. Words of the texts, and those with the right tag."""

    hits: np.ndarray
    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray
    right_words: np.ndarray

    @staticmethod
    def of(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], tags: Sequence[str]) -> SpanCounts:
        """Return the counts of texts by the tags that their words were given and have, both of `tags`."""
        kinds = kinds_of(tags)
        counts = np.zeros((3, len(gold), len(kinds)), int)
        for row, (own, right) in enumerate(zip(predicted, gold, strict=True)):
            sets = [set(spans_of(some)) for some in (own, right)]
            for number, some in enumerate((sets[0] & sets[1], *sets)):
                by_kind = Counter(span.label for span in some)
                counts[number, row] = [by_kind[kind] for kind in kinds]
        same = [
            sum(a == b for a, b in zip(own, right, strict=True)) for own, right in zip(predicted, gold, strict=True)
        ]
        return SpanCounts(*counts, np.asarray([len(some) for some in gold]), np.asarray(same))

    def chosen(self, rows: np.ndarray) -> SpanCounts:
        """Return those of some texts."""
        return SpanCounts(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def right(self) -> np.ndarray:
        """1 where every word of a text has the right tag, else 0."""
        return (self.words == self.right_words).astype(float)


def span_f1(counts: SpanCounts) -> float:
    """Return 2 hits / (predicted + gold) over the spans of all texts and kinds; 0 where there are none."""
    return _quotient(2 * counts.hits.sum(), counts.predicted.sum() + counts.gold.sum())


def span_precision(counts: SpanCounts) -> float:
    """Return the share of predicted spans that are right."""
    return _quotient(counts.hits.sum(), counts.predicted.sum())


def span_recall(counts: SpanCounts) -> float:
    """Return the share of gold spans that are predicted."""
    return _quotient(counts.hits.sum(), counts.gold.sum())


def macro_span_f1(counts: SpanCounts) -> float:
    """Return the mean of the kinds' F1, of the kinds that are predicted or gold."""
    total = (counts.predicted + counts.gold).sum(axis=0)
    hits = counts.hits.sum(axis=0)
    return float(np.mean(2 * hits[total > 0] / total[total > 0])) if (total > 0).any() else 0.0


def kind_f1(counts: SpanCounts, kind: int) -> float:
    """Return the F1 of the spans of a single kind."""
    total = counts.predicted[:, kind].sum() + counts.gold[:, kind].sum()
    return _quotient(2 * counts.hits[:, kind].sum(), total)


def word_accuracy(counts: SpanCounts) -> float:
    """Return the share of words that have the right tag."""
    return _quotient(counts.right_words.sum(), counts.words.sum())


def _quotient(above: float, below: float) -> float:
    return float(above / below) if below else 0.0
