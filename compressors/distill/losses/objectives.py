"""The plain objectives, each by its own name; what is composed of components is in `composite.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences import kullback
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import TokenViews, ViewName


@dataclass(frozen=True)
class ForwardKL:
    """KL(teacher || student): exact with a live teacher. With a recorded one over its top K and one bucket for the rest.

    sum_k p_k (log p_k - log q_k) + p_rest (log p_rest - log q_rest). Merging the rest into one bucket can only lower the KL
    (log-sum inequality), so this is a lower bound of the full one. https://arxiv.org/abs/1503.02531
    """

    @property
    def requires(self) -> Requires:
        return _FORWARD_KL.requires

    def num_terms(self, batch: Batch) -> int:
        return _FORWARD_KL.num_terms(batch)

    def terms(self, views: TokenViews) -> Terms:
        return _FORWARD_KL.terms(views)

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return NextToken() if "teacher" in moving else self


_FORWARD_KL = Distil(divergence=kullback.ForwardKL())

OBJECTIVES: dict[str, type[Objective[Any, Any]]] = {"next_token": NextToken, "forward_kl": ForwardKL}
