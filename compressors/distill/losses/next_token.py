"""The data's own next token as an objective."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.objective import Requires, Terms
from attar.compressors.distill.losses.views import TokenViews, ViewName


@dataclass(frozen=True)
class NextToken:
    """Negative log-likelihood of the data's next token."""

    @property
    def requires(self) -> Requires:
        return Requires(vocabulary="sums")

    def num_terms(self, batch: Batch) -> int:
        return batch.num_positions

    def terms(self, views: TokenViews) -> Terms:
        loss = nn.functional.nll_loss(views.logprobs, views.targets.next_ids, reduction="none")
        return Terms(loss, torch.ones_like(loss, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> NextToken:
        return self
