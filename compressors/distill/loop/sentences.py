"""Training of sentence encoders: how texts become batches, and vectors the views of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from attar.compressors.distill.examples.reasoning import STEP_STATES
from attar.compressors.distill.examples.sentences import Sentence, SentenceBatch, sentence_batches
from attar.compressors.distill.loop.copies import kind_of_copy
from attar.compressors.distill.loop.modality import Means
from attar.compressors.distill.losses.divergences.hidden import QUERY_KEY_VALUE
from attar.compressors.distill.losses.embeddings.views import EMBEDDINGS, TOKEN_STATES, EmbeddingViews
from attar.compressors.distill.losses.objective import Observed, Whole
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.encode.early_exits import exit_name


@dataclass(frozen=True)
class SentenceTexts:
    """Texts under an encoder: a position is a text, its view the vector. With `exits` each of them has views of its own.

    `widths`: of a pool of teachers that were run once, the width of each one's vectors, which follow each other, by its name.
    """

    exits: tuple[int, ...] = ()
    widths: Mapping[str, int] = field(default_factory=dict)

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
        others: dict[str, Any] = {
            name: outputs.states["hidden"] for name, outputs in named.items() if outputs is not None
        }
        others["teacher_tokens"] = teachers.teacher_states.get(TOKEN_STATES)
        for side, states in (("student", student.projections), ("teacher", teachers.teacher_states)):
            others[f"{side}_projections"] = {name: states[name] for name in QUERY_KEY_VALUE if name in states}
        if others["student_projections"]:
            others["sequences"] = batch.attention_mask.nonzero()[:, 0].to(output.device)
        pairs = {"similarities": batch.similarities, "has_steps": batch.reasoned and batch.reasoned.has_steps}
        tokens, steps = (student.projections.get(name) for name in (TOKEN_STATES, STEP_STATES))
        views: dict[str, EmbeddingViews] = {}
        for index, depth in enumerate(self.exits):
            own = {"student_tokens": tokens, "steps": steps}
            own = {name: states if states is None else states[index] for name, states in own.items()}
            views[kind_of_copy(EMBEDDINGS, exit_name(depth))] = EmbeddingViews(output[index], **own, **pairs, **others)
        if not self.exits:
            views[EMBEDDINGS] = EmbeddingViews(output, student_tokens=tokens, steps=steps, **pairs, **others)
        for kind, some in [*views.items()] if self.widths else ():
            assert some.teacher is not None, "a pool was run once, over every text"
            parts = some.teacher.split(list(self.widths.values()), dim=-1)
            named_parts = zip(self.widths, parts, strict=True)
            views |= {kind_of_copy(kind, name): replace(some, teacher=part) for name, part in named_parts}
        return {kind: Whole(some) for kind, some in views.items()}

    def entropies(self, batch: SentenceBatch, teachers: Teachers) -> TokenStats:
        raise TypeError("vectors have no entropy; no loss between them asks for it")
