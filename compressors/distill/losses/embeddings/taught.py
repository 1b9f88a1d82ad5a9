"""Losses toward the vectors that a teacher makes of the same texts. They are over a batch's texts, at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.losses.divergences.hidden import QUERY_KEY_VALUE, AttentionRelation
from attar.compressors.distill.losses.embeddings.views import (
    EMBEDDINGS,
    TOKEN_STATES,
    EmbeddingViews,
    refuse_temperature,
)
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

# What a loss between vectors of one width needs.
_NUMBERS = Requires(views=EMBEDDINGS, sources=frozenset({"teacher"}), compares_numbers=True)


@dataclass(frozen=True)
class SimilarityRows:
    """KL of each text's similarities to the batch's others, in nats. Softmax of cosine / temperature over a row, teacher to student.

    Relations alone: the vectors may be of other widths. https://arxiv.org/abs/2101.04731. A batch of a single text says nothing.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, sources=frozenset({"teacher"}))

    def num_terms(self, batch: SentenceBatch) -> int:
        return batch.num_positions if batch.num_positions > 1 else 0

    def terms(self, views: EmbeddingViews) -> Terms:
        target, student = (self._rows(vectors) for vectors in (views.of_teacher(), views.student))
        values = (target.exp() * (target - student)).sum(dim=-1)
        return Terms(values, torch.full_like(values, len(values) > 1, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self

    def _rows(self, vectors: Tensor) -> Tensor:
        """Return log-probabilities over the other texts."""
        unit = nn.functional.normalize(vectors.float(), dim=-1)
        own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        return ((unit @ unit.T) / self.temperature).masked_fill(own, -1e4).log_softmax(dim=-1)


@dataclass(frozen=True)
class EmbeddingDistance:
    """How far the student's vector of a text is from the teacher's, which is of the same width. https://arxiv.org/abs/2004.09813

    cosine: 1 - cosine. squared: mean over the numbers of the squared difference, which for vectors of length one is 2 (1 - cosine) / D.
    """

    by: Literal["cosine", "squared"] = "cosine"

    def __post_init__(self) -> None:
        _check_by(self.by)

    @property
    def requires(self) -> Requires:
        return _NUMBERS

    def num_terms(self, batch: SentenceBatch) -> int:
        return batch.num_positions

    def terms(self, views: EmbeddingViews) -> Terms:
        values = _apart("embedding_distance", self.by, views.student, views.of_teacher())
        return Terms(values, torch.ones_like(values, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self


@dataclass(frozen=True)
class TokenDistance:
    """How far the states that are pooled are from the teacher's, token by token. A text's vector is made of them.

    squared: mean over the numbers of the squared difference; cosine: 1 - cosine. Hidden-state loss of https://arxiv.org/abs/1909.10351 at the
    last block.
    """

    by: Literal["cosine", "squared"] = "squared"

    def __post_init__(self) -> None:
        _check_by(self.by)

    @property
    def requires(self) -> Requires:
        return replace(_NUMBERS, projections=(TOKEN_STATES,))

    def num_terms(self, batch: SentenceBatch) -> int:
        return int(batch.attention_mask.sum())

    def terms(self, views: EmbeddingViews) -> Terms:
        if views.student_tokens is None or views.teacher_tokens is None:
            raise ValueError("token_distance reads the states of the teacher's tokens, but nothing stands behind them")
        values = _apart("token_distance", self.by, views.student_tokens, views.teacher_tokens)
        return Terms(values, torch.ones_like(values, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self


@dataclass(frozen=True)
class SelfAttentionRelation:
    """How the tokens of a text relate in the last block, from the teacher's: see AttentionRelation. https://arxiv.org/abs/2012.15828

    Widths and numbers of heads may differ; `num_relation_heads` divides every width. kl: in nats a token.
    """

    num_relation_heads: int = 1
    by: Literal["squared", "kl"] = "kl"

    def __post_init__(self) -> None:
        AttentionRelation(num_relation_heads=self.num_relation_heads, by=self.by)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, sources=frozenset({"teacher"}), projections=QUERY_KEY_VALUE)

    def num_terms(self, batch: SentenceBatch) -> int:
        return int(batch.attention_mask.sum())

    def terms(self, views: EmbeddingViews) -> Terms:
        if not views.teacher_projections or views.sequences is None:
            raise ValueError("self_attention_relation reads a live teacher's queries, keys and values; there are none")
        teacher = {name: states.detach() for name, states in views.teacher_projections.items()}
        relation = AttentionRelation(num_relation_heads=self.num_relation_heads, by=self.by)
        values = relation(views.student_projections, teacher, views.sequences)
        return Terms(values, torch.ones_like(values, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return None if "teacher" in moving else self


def _check_by(by: str) -> None:
    if by not in ("cosine", "squared"):
        raise ValueError(f"by is {by!r}; accepted: cosine, squared")


def _apart(name: str, by: str, student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = student.float(), teacher.float()
    if student.shape != teacher.shape:
        raise ValueError(
            f"{name}: the teacher's vectors have {teacher.shape[1]} numbers, the student's {student.shape[1]}; accepted: one width, "
            "or similarity_rows"
        )
    if by == "cosine":
        return 1.0 - nn.functional.cosine_similarity(student, teacher, dim=-1)
    return (student - teacher).square().mean(dim=-1)
