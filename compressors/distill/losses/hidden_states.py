"""Objectives between hidden states: N x D alone, no vocabulary, so nothing is cut into chunks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.divergences.hidden import HiddenLoss
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objective import STATES, Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class StateViews:
    """States of N positions by name ("hidden", projections) under student and teacher, and the sequence that each lies in.

    `teacher`: empty where there is none that is one model.
    """

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    sequences: Int[Tensor, "N"] | None = None


@dataclass(frozen=True, kw_only=True)
class HiddenDistil:
    """Pull the student's hidden states toward a live teacher's. It has no target: states are no distributions."""

    divergence: HiddenLoss

    @property
    def requires(self) -> Requires:
        return Requires(
            views=STATES,
            sources=frozenset({"teacher"}),
            is_whole=True,
            projections=self.divergence.reads,
            vocabulary="sums",
        )

    def num_terms(self, batch: Batch) -> int:
        return batch.num_taught

    def terms(self, views: StateViews) -> Terms:
        if not views.teacher or views.sequences is None:
            raise ValueError("a loss between hidden states needs a live teacher that is one model")
        loss = self.divergence(views.student, views.teacher, views.sequences)
        return Terms(loss, torch.ones_like(loss, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return NextToken() if "teacher" in moving else self
