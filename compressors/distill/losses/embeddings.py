"""Losses between the vectors that student and teacher make of the same texts. They are over a batch's texts, at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.losses.divergences.hidden import QUERY_KEY_VALUE, AttentionRelation
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

# The kind of views that an encoder gives, and what it gives beside vectors: the states that are pooled, a token each.
EMBEDDINGS = "embeddings"
TOKEN_STATES = "token_states"


@dataclass(frozen=True)
class EmbeddingViews:
    """Vectors of the same N texts: the student's, and those of whoever is read beside it."""

    student: Float[Tensor, "N D"]
    teacher: Float[Tensor, "N E"] | None = None
    past: Float[Tensor, "N E"] | None = None
    anchor: Float[Tensor, "N E"] | None = None
    # states of the last block at the texts' M tokens, where a loss reads them
    student_tokens: Float[Tensor, "M D"] | None = None
    teacher_tokens: Float[Tensor, "M E"] | None = None
    # of pairs, each of whose texts has a row, one behind the other
    similarities: Float[Tensor, "N"] | None = None
    # queries, keys and values of the last block at the same tokens by name, where a loss reads them, and the text of each token
    student_projections: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_projections: Mapping[str, Tensor] = field(default_factory=dict)
    sequences: Int[Tensor, "M"] | None = None

    def of_teacher(self) -> Float[Tensor, "N E"]:
        """Return the teacher's vectors. Raises ValueError where there is none."""
        if self.teacher is None:
            raise ValueError("the objective reads 'teacher', but nothing stands behind it in this training")
        return self.teacher


# What a loss between vectors of one width needs.
_NUMBERS = Requires(views=EMBEDDINGS, sources=frozenset({"teacher"}), compares_numbers=True)


@dataclass(frozen=True)
class SimilarityRows:
    """KL of each text's similarities to the batch's others, in nats. Softmax of cosine / temperature over a row, teacher to student.

    Relations alone: the vectors may be of other widths. https://arxiv.org/abs/2101.04731. A batch of a single text says nothing.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

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


@dataclass(frozen=True)
class PairDistance:
    """(cosine of a pair's two vectors - its similarity)^2, the loss of sentence-transformers for graded pairs. https://arxiv.org/abs/1908.10084"""

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=frozenset({"pairs", "grades"}))

    def num_terms(self, batch: SentenceBatch) -> int:
        return 0 if batch.similarities is None else len(batch.similarities)

    def terms(self, views: EmbeddingViews) -> Terms:
        if views.similarities is None:
            raise ValueError("pair_distance reads pairs of texts with a similarity, and these are single texts")
        cosines = nn.functional.cosine_similarity(views.student[0::2].float(), views.student[1::2].float(), dim=-1)
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
        _check_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=frozenset({"pairs"}))

    def num_terms(self, batch: SentenceBatch) -> int:
        count = 0 if batch.similarities is None else len(batch.similarities)
        return count if count > 1 else 0

    def terms(self, views: EmbeddingViews) -> Terms:
        if views.similarities is None:
            raise ValueError("pair_contrast reads pairs of texts, and these are single texts")
        first, second = (nn.functional.normalize(views.student[side::2].float(), dim=-1) for side in (0, 1))
        scores = first @ second.T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        ways = [nn.functional.cross_entropy(some, own, reduction="none") for some in (scores, scores.T)]
        values = (ways[0] + ways[1]) / 2
        return Terms(values, torch.full_like(values, len(values) > 1, dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; accepted: above 0")


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


EMBEDDING_LOSSES: dict[str, type[Objective]] = {
    "similarity_rows": SimilarityRows,
    "embedding_distance": EmbeddingDistance,
    "token_distance": TokenDistance,
    "self_attention_relation": SelfAttentionRelation,
    "pair_distance": PairDistance,
    "pair_contrast": PairContrast,
}
