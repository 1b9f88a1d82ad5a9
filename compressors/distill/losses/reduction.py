"""The one place where terms become a number: masked, summed, weighed, and divided by how many the whole step has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.objective import Objective, Observed, Terms
from attar.compressors.distill.losses.weights.coefficients import CoefficientSchedule

# Of each objective: the sum of its terms, and how many counted.
Sums = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Reduction:
    """Objectives with their weights, and how both change while training goes on."""

    objectives: Mapping[str, Objective]
    weights: Mapping[str, float]
    schedules: Mapping[str, tuple[CoefficientSchedule, ...]] = field(default_factory=dict)

    def at(self, clock: Clock) -> Reduction:
        """Return the reduction as it is at a time."""
        if not self.schedules:
            return self
        objectives, weights = dict(self.objectives), dict(self.weights)
        for name, changes in self.schedules.items():
            for change in changes:
                objectives[name], weights[name] = change.at(objectives[name], weights[name], clock)
        return replace(self, objectives=objectives, weights=weights)

    def loss(self, observed: Mapping[str, Observed], num_terms: Mapping[str, int]) -> tuple[Tensor, Sums]:
        """Return (sum_o weight_o * sum_o / num_terms_o, {objective: (sum of its terms, how many counted)}).

        `observed`: a batch by kind of views. `num_terms` counts the whole optimizer step (all micro-batches, all processes), so that
        splitting a batch changes nothing. Nobody but the student gets a gradient. Raises ValueError for views that the batch has not.
        """
        sums: Sums = {}
        totals = []
        for kind, objectives in self._by_views().items():
            if kind not in observed:
                raise ValueError(
                    f"objective {next(iter(objectives))!r} reads {kind}; known here: {', '.join(observed)}"
                )

            def part_loss(views: Any, objectives: Mapping[str, Objective] = objectives) -> Tensor:
                part = {name: masked_sum(objective.terms(views)) for name, objective in objectives.items()}
                for name, (value, count) in part.items():
                    before = sums.get(name, (0.0, 0))
                    sums[name] = (before[0] + float(value.detach()), before[1] + count)
                return combine(part, self.weights, num_terms)

            totals.append(observed[kind].total(objectives, part_loss))
        assert totals, "no objectives"
        return sum(totals[1:], start=totals[0]), sums

    def _by_views(self) -> dict[str, dict[str, Objective]]:
        """Return the objectives by the kind of views that they read."""
        kinds: dict[str, dict[str, Objective]] = {}
        for name, objective in self.objectives.items():
            kinds.setdefault(objective.requires.views, {})[name] = objective
        return kinds


def masked_sum(terms: Terms) -> tuple[Tensor, int]:
    """Return the sum of the terms that count, and how many those are. The others give no gradient."""
    total = torch.where(terms.mask, terms.values, 0.0).sum()
    if terms.carried is not None:
        total = total + (terms.carried - terms.carried.detach()).sum()
    return total, int(terms.mask.sum())


def combine(
    sums: Mapping[str, tuple[Tensor, int]], weights: Mapping[str, float], num_terms: Mapping[str, int]
) -> Tensor:
    """Return sum_o weight_o * sum_o / num_terms_o. An objective without terms in the step contributes zero."""
    total = None
    for name, (loss_sum, _) in sums.items():
        term = weights[name] * loss_sum / max(num_terms[name], 1)
        total = term if total is None else total + term
    assert total is not None, "no objectives"
    return total
