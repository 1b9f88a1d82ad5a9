"""Train the sub-networks of a model in the same loop. Student, modality and objectives are of several of them in each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from attar.compressors.distill.loop.elastic import Elastic, at_subnets
from attar.compressors.distill.teachers.elastic import ElasticStudent
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def elastic_training(
    plan: TrainingPlan, student: Any, modality: Any, wrap: Callable[[PreTrainedModel], nn.Module]
) -> tuple[TrainingPlan, Any, Any]:
    """Return plan, student and modality with sub-networks, or as they are where none learn. `wrap`: makes such a student of a model.

    Raises ValueError for sizes that the model does not hold, and where its family's config cannot say the smallest.
    """
    elastic = plan.adaptation.elastic
    if elastic is None:
        return plan, student, modality
    whole = ElasticStudent(student, wrap)
    try:
        sandwich = elastic.sandwich(whole.whole, plan.seed)
    except ValueError as error:
        raise ValueError(f"adapt.space.{error}") from error
    whole.put_first(elastic.order)
    whole.net(sandwich.smallest)  # refuses what the family's config cannot say
    note(
        f"{len(sandwich.subnets)} sub-networks, from {sandwich.smallest} to {sandwich.subnets[0]}; a step trains {len(sandwich.roles)}"
    )
    reduction = at_subnets(plan.reduction, sandwich.roles, elastic.whole_share)
    return replace(plan, reduction=reduction), whole, Elastic(modality, sandwich)
