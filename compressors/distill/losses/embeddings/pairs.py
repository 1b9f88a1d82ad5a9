"""Losses between the two texts of a row, without a teacher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.losses.embeddings.views import EMBEDDINGS, EmbeddingViews, refuse_temperature
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName


@dataclass(frozen=True)
class PairDistance:
    """(cosine of a pair's two vectors - its similarity)^2, the loss of sentence-transformers for graded pairs. https://arxiv.org/abs/1908.10084"""

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=frozenset({"pairs", "grades"}))

    def num_terms(self, batch: SentenceBatch) -> int:
        return 0 if batch.similarities is None else len(batch.similarities)

    def terms(self, views: EmbeddingViews) -> Terms:
        first, second = (views.side(side, "pair_distance") for side in (0, 1))
        assert views.similarities is not None, "sides are of pairs"
        cosines = nn.functional.cosine_similarity(first, second, dim=-1)
        values = (cosines - views.similarities.to(cosines.device)).square()
        return Terms(values, torch.ones_like(values, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


@dataclass(frozen=True)
class PairContrast:
    """Cross-entropy of a text's own pair among all of the micro-batch, in nats. Softmax of cosine / temperature, mean of both ways.

    What lies side by side is alike, all else apart: of a larger micro-batch it asks more. https://arxiv.org/abs/2103.00020
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=frozenset({"pairs"}))

    def num_terms(self, batch: SentenceBatch) -> int:
        count = 0 if batch.similarities is None else len(batch.similarities)
        return count if count > 1 else 0

    def terms(self, views: EmbeddingViews) -> Terms:
        first, second = (nn.functional.normalize(views.side(side, "pair_contrast"), dim=-1) for side in (0, 1))
        scores = first @ second.T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        ways = [nn.functional.cross_entropy(some, own, reduction="none") for some in (scores, scores.T)]
        values = (ways[0] + ways[1]) / 2
        return Terms(values, torch.full_like(values, len(values) > 1, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self
