"""Training of classifiers of texts: how texts become batches, and logits the distributions that losses compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attar.compressors.distill.examples.sentences import Sentence, SentenceBatch, sentence_batches
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.classes import ClassDistributions
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Observed
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.outputs import Teachers


@dataclass(frozen=True)
class ClassTexts:
    """Texts under a classifier, or words under a tagger. A position is one of them, its view a distribution over classes."""

    def at(self, step: int) -> ClassTexts:
        return self

    def batches(
        self, examples: Sequence[Sentence], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[SentenceBatch]:
        return sentence_batches(examples, order, tokens_per_batch)

    def observed(
        self, student: Any, output: Tensor, batch: SentenceBatch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        return {DISTRIBUTIONS: distributions_of(output, batch, teachers, means)}

    def entropies(self, batch: SentenceBatch, teachers: Teachers) -> TokenStats:
        assert teachers.teacher is not None and batch.labels is not None, "a teacher is asked before its entropy"
        return distributions_of(teachers.teacher.logits, batch, teachers, {}).entropies()


def distributions_of(logits: Tensor, batch: SentenceBatch, teachers: Teachers, means: Means) -> ClassDistributions:
    """Return a batch's logits as the views of losses."""
    assert batch.labels is not None, "a text brings its class, or that it has none"
    return ClassDistributions(logits, batch.labels, teachers, batch.facts, means)
