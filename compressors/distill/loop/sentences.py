"""Training of sentence encoders: how texts become batches, and vectors the views of losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attar.compressors.distill.examples.sentences import Sentence, SentenceBatch, sentence_batches
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.embeddings import EMBEDDINGS, TOKEN_STATES, EmbeddingViews
from attar.compressors.distill.losses.objective import Observed, Whole
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.outputs import Teachers


@dataclass(frozen=True)
class SentenceTexts:
    """Texts under an encoder: a position is a text, its view the vector."""

    def at(self, step: int) -> SentenceTexts:
        return self

    def batches(
        self, examples: Sequence[Sentence], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[SentenceBatch]:
        return sentence_batches(examples, order, tokens_per_batch)

    def observed(
        self, student: Any, output: Tensor, batch: SentenceBatch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        named = {name: getattr(teachers, name) for name in ("teacher", "past", "anchor")}
        others = {name: outputs.states["hidden"] for name, outputs in named.items() if outputs is not None}
        tokens = {"student_tokens": student.projections.get(TOKEN_STATES)}
        tokens["teacher_tokens"] = teachers.teacher_states.get(TOKEN_STATES)
        return {EMBEDDINGS: Whole(EmbeddingViews(output, **others, **tokens, similarities=batch.similarities))}

    def entropies(self, batch: SentenceBatch, teachers: Teachers) -> TokenStats:
        raise TypeError("vectors have no entropy; no loss between them asks for it")
