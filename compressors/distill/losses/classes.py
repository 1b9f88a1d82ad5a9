"""Distributions over classes as the views of losses: one row an example. What compares distributions of tokens compares these alike.

A model of texts, images or anything gives logits of shape [rows, classes]. `ClassDistributions` makes the views of them,
`ClassOutputs` of teachers/outputs.py is what a teacher gives. So divergences, targets, weights and schedules of tokens are those
of classes. Of a batch they ask `num_positions`, `num_taught` (rows that a teacher speaks of) and `num_labelled`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.distributions import with_teachers
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.statistics import measured, teacher_entropies
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets, TokenViews, ViewName
from attar.compressors.distill.teachers.outputs import Teachers

# The label of a row that has none.
UNLABELLED = -1
# Statistics of a batch that read each row's own label.
READ_LABELS = frozenset({"own_logprobs", "is_first_choice"})


@dataclass(frozen=True)
class ClassDistributions:
    """Logits of N rows over C classes with their labels and teachers; all fit into memory at once.

    `labels`: the class of each row, `UNLABELLED` where it has none. `facts` and `means`: what weights and routes read, a row each.
    """

    logits: Float[Tensor, "N C"]
    labels: Int[Tensor, "N"]
    teachers: Teachers = field(default_factory=Teachers)
    facts: tuple[SampleFacts, ...] = ()
    means: Mapping[tuple[object, str], float] = field(default_factory=dict)

    def total(self, objectives: Mapping[str, Objective], loss_of: Callable[[TokenViews], Tensor]) -> Tensor:
        """Return the loss of all rows. Raises ValueError where an objective reads the label of a row that has none."""
        self._refuse_unlabelled(objectives)
        targets, logprobs = self.targets(), self.logits.float().log_softmax(dim=-1)
        every = len(self.logits)
        targets = measured(
            objectives, targets, every, lambda rows: logprobs[rows], lambda rows: self._with_teachers(targets, rows)
        )
        return loss_of(TokenViews(logprobs, self._with_teachers(targets, slice(0, every))))

    def entropies(self) -> TokenStats:
        """Return the rows' statistics with the teacher's entropy: what some weights have a mean of."""
        targets = self.targets()
        return teacher_entropies(targets, len(self.logits), lambda rows: self._with_teachers(targets, rows))

    def targets(self) -> Targets:
        """Return what the rows should become, without what live teachers say."""
        rows = torch.arange(len(self.logits), device=self.logits.device)
        facts = self.facts or tuple(SampleFacts() for _ in rows)
        return Targets(self.labels.to(self.logits.device), stats=TokenStats(rows, facts, means=self.means))

    def _with_teachers(self, targets: Targets, rows: slice) -> Targets:
        return with_teachers(targets, self.teachers, rows)

    def _refuse_unlabelled(self, objectives: Mapping[str, Objective]) -> None:
        if not bool((self.labels == UNLABELLED).any()):
            return
        for name, objective in objectives.items():
            requires = objective.requires
            if "labels" in requires.sources or requires.statistics & READ_LABELS:
                raise ValueError(
                    f"objectives.{name} reads each row's label, and a row has none; accepted: `labels`, which leaves "
                    "such rows out, or labels throughout"
                )


class LabelledBatch(Protocol):
    """What losses over classes ask of a batch of any modality."""

    @property
    def num_labelled(self) -> int:
        """How many of its rows have a label."""
        ...


@dataclass(frozen=True)
class Labels:
    """Cross-entropy with the rows' own labels, in nats. Rows without a label say nothing.

    -(1 - smoothing) log S(label) - smoothing / C sum_c log S(c). https://arxiv.org/abs/1512.00567
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; accepted: 0 to below 1")

    @property
    def requires(self) -> Requires:
        return Requires(facts=frozenset({"labels"}))

    def num_terms(self, batch: LabelledBatch) -> int:
        return batch.num_labelled

    def terms(self, views: TokenViews) -> Terms:
        labels = views.targets.next_ids
        mask = labels != UNLABELLED
        loss = nn.functional.nll_loss(views.logprobs, labels.clamp(min=0), reduction="none")
        if self.smoothing:
            loss = (1.0 - self.smoothing) * loss - self.smoothing * views.logprobs.mean(dim=-1)
        return Terms(loss, mask)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


# Objectives over classes that tokens have not, by their own name.
CLASS_LOSSES: dict[str, type[Objective]] = {"labels": Labels}
