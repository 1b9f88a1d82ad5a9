"""An objective several times over, each with its share of the weight. At every exit of an encoder, toward every teacher of a pool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.losses.weights.coefficients import CoefficientSchedule
from attar.compressors.encode.early_exits import exit_name


@dataclass(frozen=True)
class Copy:
    """An objective over the views of one exit or teacher, `name`, which have a kind of their own."""

    objective: Objective[Any, Any]
    name: str

    @property
    def requires(self) -> Requires:
        requires = self.objective.requires
        return replace(requires, views=kind_of_copy(requires.views, self.name))

    def num_terms(self, batch: Any) -> int:
        return self.objective.num_terms(batch)

    def terms(self, views: Any) -> Terms:
        return self.objective.terms(views)

    def held_out(self, moving: Collection[ViewName]) -> Copy | None:
        objective = self.objective.held_out(moving)
        return None if objective is None else replace(self, objective=objective)


@dataclass(frozen=True)
class SharedSchedule:
    """A schedule of an objective, as a copy with a share of its weight has it."""

    schedule: CoefficientSchedule
    share: float

    def at(self, objective: Copy, weight: float, clock: Clock) -> tuple[Copy, float]:
        changed, whole = self.schedule.at(objective.objective, weight / self.share, clock)
        return replace(objective, objective=changed), whole * self.share


def copied(
    reduction: Reduction,
    shares: Mapping[str, float],
    is_copied: Callable[[Objective[Any, Any]], bool] = lambda objective: True,
) -> Reduction:
    """Return the reduction with each objective once for every name, its weight times that name's share. A share of 0 is no copy."""
    objectives, weights, schedules = {}, {}, {}
    for name, objective in reduction.objectives.items():
        if not is_copied(objective):
            objectives[name], weights[name] = objective, reduction.weights[name]
            schedules |= {name: reduction.schedules[name]} if name in reduction.schedules else {}
            continue
        for part, share in shares.items():
            if not share:
                continue
            own = f"{name}_{part}"
            objectives[own], weights[own] = Copy(objective, part), share * reduction.weights[name]
            if changes := reduction.schedules.get(name, ()):
                schedules[own] = tuple(SharedSchedule(change, share) for change in changes)
    return Reduction(objectives, weights, schedules=schedules)


def at_exits(reduction: Reduction, exits: Sequence[int]) -> Reduction:
    """Return the reduction with each objective at every exit. After i of N blocks its weight is i / N; the last exit is N.

    https://arxiv.org/abs/2503.03008
    """
    return copied(reduction, {exit_name(depth): depth / exits[-1] for depth in exits}) if exits else reduction


def teacher_name(number: int) -> str:
    """Return the name of a teacher of a pool, the first of which is 1."""
    return f"teacher_{number}"


def kind_of_copy(kind: str, name: str) -> str:
    """Return under which kind a modality gives the views of one exit or teacher."""
    return f"{kind} of {name}"
