"""Training of classifiers of texts: how texts become batches, and logits the distributions that losses compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.sentences import Sentence, SentenceBatch, sentence_batches
from attar.compressors.distill.loop.copies import kind_of_copy
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.classes import UNLABELLED, ClassDistributions
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Observed
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.outputs import ClassOutputs, Teachers


@dataclass(frozen=True)
class ClassTexts:
    """Texts under a classifier, or words under a tagger. A position is one of them, its view a distribution over classes.

    `widths`: of a pool of teachers that were run once, each one's number of classes, by its name.
    """

    widths: Mapping[str, int] = field(default_factory=dict)

    def at(self, step: int) -> ClassTexts:
        return self

    def batches(
        self, examples: Sequence[Sentence], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[SentenceBatch]:
        return sentence_batches(examples, order, tokens_per_batch)

    def observed(
        self, student: Any, output: Tensor, batch: SentenceBatch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        return class_views(output, _labels(batch), teachers, batch.facts, means, self.widths)

    def entropies(self, batch: SentenceBatch, teachers: Teachers) -> TokenStats:
        assert teachers.teacher is not None and batch.labels is not None, "a teacher is asked before its entropy"
        return ClassDistributions(teachers.teacher.logits, batch.labels, teachers, batch.facts).entropies()


def class_views(
    output: Float[Tensor, "N W"],
    labels: Int[Tensor, "N"],
    teachers: Teachers,
    facts: tuple[SampleFacts, ...],
    means: Means,
    widths: Mapping[str, int],
) -> dict[str, Observed]:
    """Return a batch's logits as the views of losses. Of a pool also each teacher's classes, as the student's head for it tells them."""
    own, *others = output.split([output.shape[-1] - sum(widths.values()), *widths.values()], dim=-1)
    if not widths:
        return {DISTRIBUTIONS: ClassDistributions(own, labels, teachers, facts, means)}
    views: dict[str, Observed] = {
        DISTRIBUTIONS: ClassDistributions(own, labels, replace(teachers, teacher=None), facts, means)
    }
    unlabelled = torch.full_like(labels, UNLABELLED)  # the data's classes are no teacher's
    taught = teachers.teacher.logits.split(list(widths.values()), dim=-1)
    for name, student, teacher in zip(widths, others, taught, strict=True):
        alone = Teachers(teacher=ClassOutputs(teacher))
        views[kind_of_copy(DISTRIBUTIONS, name)] = ClassDistributions(student, unlabelled, alone, facts, means)
    return views


def _labels(batch: SentenceBatch) -> Int[Tensor, "N"]:
    assert batch.labels is not None, "a text brings its class, or that it has none"
    return batch.labels
