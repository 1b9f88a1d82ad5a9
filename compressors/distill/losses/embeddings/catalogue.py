"""Every loss between vectors of texts, by name."""

from __future__ import annotations

from attar.compressors.distill.losses.embeddings.latent_reasoning import ReasonedContrast, ReasonedScores, ReasonedSteps
from attar.compressors.distill.losses.embeddings.pairs import PairContrast, PairDistance
from attar.compressors.distill.losses.embeddings.taught import (
    EmbeddingDistance,
    SelfAttentionRelation,
    SimilarityRows,
    TokenDistance,
)
from attar.compressors.distill.losses.objective import Objective

EMBEDDING_LOSSES: dict[str, type[Objective]] = {
    "similarity_rows": SimilarityRows,
    "embedding_distance": EmbeddingDistance,
    "token_distance": TokenDistance,
    "self_attention_relation": SelfAttentionRelation,
    "pair_distance": PairDistance,
    "pair_contrast": PairContrast,
    "reasoned_contrast": ReasonedContrast,
    "reasoned_scores": ReasonedScores,
    "reasoned_steps": ReasonedSteps,
}
