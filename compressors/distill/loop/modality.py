"""What kind of data a training is of. How examples become batches, and how what models make of a batch becomes the views of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attar.compressors.distill.examples.learned import LearnedBatch
from attar.compressors.distill.examples.packing import Batch, Example, batches
from attar.compressors.distill.losses.distributions import TOKENS_PER_CHUNK, Distributions, with_teachers
from attar.compressors.distill.losses.hidden_states import StateViews
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, STATES, Observed, Whole
from attar.compressors.distill.losses.statistics import teacher_entropies
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.distill.teachers.student import Student

# Means over an optimizer step, by (weight, route).
Means = Mapping[tuple[object, str], float]


class Modality(Protocol):
    """Text, classes, sentence embeddings, images or a denoiser's states: what the loop asks beside the models themselves.

    What it asks of examples and batches is in examples/learned.py, of the models in teachers/trained_model.py.
    """

    def at(self, step: int) -> Modality:
        """Return it as the steps of training see it. Where a step draws something of its own, as that step draws it."""
        ...

    def batches(
        self, examples: Sequence[Any], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[LearnedBatch]:
        """Yield batches of the examples. `has_teacher`: a live one, which speaks of every position."""
        ...

    def observed(
        self, student: Any, output: Tensor, batch: Any, teachers: Teachers, means: Means
    ) -> Mapping[str, Observed]:
        """Return a batch's views by kind. `output`: what the student's forward pass gave."""
        ...

    def entropies(self, batch: Any, teachers: Teachers) -> TokenStats:
        """Return the batch's statistics with the teacher's entropy: what some weights have a mean of."""
        ...


@dataclass(frozen=True)
class CausalText:
    """Sequences of tokens under a causal language model. `is_packed`: see packing.Batch; check with `packing_matches` first.

    `sample`: the part of the vocabulary that steps compare, drawn anew in each; held-out evaluations compare all of it.
    """

    is_packed: bool
    sample: VocabularySample | None = None
    tokens_per_chunk: int = TOKENS_PER_CHUNK
    drawn: VocabularySample | None = None

    def at(self, step: int) -> CausalText:
        return self if self.sample is None else replace(self, drawn=self.sample.at(step))

    def batches(
        self, examples: Sequence[Example], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[Batch]:
        for batch in batches(examples, tokens_per_batch=tokens_per_batch, order=order, is_packed=self.is_packed):
            yield batch.taught_throughout() if has_teacher else batch

    def observed(
        self, student: Student, output: Tensor, batch: Batch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        targets = targets_of(batch, teachers, output.device, means)
        assert targets.stats is not None, "batches know their sequences"
        states = StateViews({"hidden": output, **student.projections}, teachers.teacher_states, targets.stats.sequences)
        return {
            DISTRIBUTIONS: Distributions(output, student.head, targets, teachers, self.tokens_per_chunk, self.drawn),
            STATES: Whole(states),
        }

    def entropies(self, batch: Batch, teachers: Teachers) -> TokenStats:
        targets = targets_of(batch, teachers, batch.next_ids.device, {})
        return teacher_entropies(
            targets, self.tokens_per_chunk, lambda tokens: with_teachers(targets, teachers, tokens)
        )


def targets_of(batch: Batch, teachers: Teachers, device: torch.device, means: Means) -> Targets:
    """Return what the batch's tokens should become; a live teacher stands before a recorded one."""
    recorded = (batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher)
    if teachers.teacher is not None:
        recorded = (None, None, None)
    parts = [None if part is None else part.to(device) for part in recorded]
    stats = TokenStats(batch.sequences.to(device), batch.facts, means=means, has_recorded=parts[2])
    return replace(Targets(batch.next_ids.to(device), *parts), stats=stats)  # type: ignore[arg-type]
