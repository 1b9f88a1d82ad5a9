"""Training of elastic networks. Each step runs several sub-networks, and each has views of its own for the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attar.compressors.distill.loop.copies import copied, kind_of_copy
from attar.compressors.distill.loop.modality import Means, Modality
from attar.compressors.distill.losses.objective import Observed
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.elastic import ElasticStudent
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.elastic.space import LARGEST, Sandwich


@dataclass(frozen=True)
class Elastic:
    """A modality whose student is an elastic network. `step`: whose sub-networks run; evaluations, which are no step, have their own."""

    modality: Modality
    sandwich: Sandwich
    step: int | None = None

    def at(self, step: int) -> Elastic:
        return replace(self, modality=self.modality.at(step), step=step)

    def batches(
        self, examples: Sequence[Any], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[Any]:
        subnets = self.sandwich.at(self.step)
        for batch in self.modality.batches(examples, order, tokens_per_batch, has_teacher=has_teacher):
            yield replace(batch, subnets=subnets)  # type: ignore[type-var] - batches of such students have the field

    def observed(
        self, student: ElasticStudent, output: Sequence[Tensor], batch: Any, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        for role, subnet, made in zip(self.sandwich.roles, batch.subnets, output, strict=True):
            views = self.modality.observed(student.net(subnet).wrapped, made, batch, teachers, means)
            observed |= {kind_of_copy(kind, role): some for kind, some in views.items()}
        return observed

    def entropies(self, batch: Any, teachers: Teachers) -> TokenStats:
        return self.modality.entropies(batch, teachers)


def at_subnets(reduction: Reduction, roles: Sequence[str], whole_share: float = 0.0) -> Reduction:
    """Return the reduction with each objective for every sub-network of a step, its weight in shares that sum to 1.

    `whole_share`: that of the whole network, the others' alike; 0: all alike.
    """
    if not whole_share or len(roles) == 1:
        return copied(reduction, dict.fromkeys(roles, 1.0 / len(roles)))
    rest = (1.0 - whole_share) / (len(roles) - 1)
    return copied(reduction, {role: whole_share if role == LARGEST else rest for role in roles})
