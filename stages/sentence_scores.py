"""How much of each training answer is the teacher's own way of saying it: what the sample weight divergence_aware reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressors.distill.composite import Distil
from compressors.distill.packing import Example, batches
from compressors.distill.parties import Party, StudentItself
from compressors.distill.reduction import Speaker
from compressors.distill.sample_weights import DivergenceAware, teacher_score
from compressors.distill.sources import Live
from compressors.distill.student import Student, plain_model
from stages.finetune_config import FinetuneConfig
from stages.progress import bar
from stages.training_rows import TrainingRows

SENTENCE_ENDS = (".", "!", "?", "\n")
TOKENS_AT_ONCE = 256


@torch.no_grad()
def with_scores(
    config: FinetuneConfig, rows: TrainingRows, tokenizer: Any, student: Student, teacher: Party | None, is_packed: bool
) -> TrainingRows:
    """Put `score` beside each example where an objective weighs by it, under the teacher and the student before its first step.

    Raises ValueError without a live teacher.
    """
    found = [one for one in config.reduction.objectives.values() if isinstance(one, Distil)]
    if not any(isinstance(one.sample_weight, DivergenceAware) for one in found):
        return rows
    if teacher is None:
        raise ValueError("sample_weight divergence_aware compares teacher and student; give a live teacher")
    every = [*rows.train, *rows.heldout]
    counter = bar("scoring answers", len(every), "rows")
    before = StudentItself(Live())
    scored = list(every)
    limit = config.schedule(plain_model(student.model).device).tokens_per_micro_batch
    order = range(len(every))
    for batch in batches(every, tokens_per_batch=limit, order=order, is_packed=is_packed):
        said = [own_logprobs(one.speak(student, batch), batch.next_ids) for one in (teacher, before)]
        for place, (index, _, _) in enumerate(batch.places):
            tokens = batch.sequences == place
            ends = sentence_ends(tokenizer, every[index])
            score = teacher_score(said[0][tokens], said[1][tokens], ends)
            scored[index] = replace(every[index], facts=replace(every[index].facts, score=score))
        counter.advance(len(batch.places))
    return replace(rows, train=scored[: len(rows.train)], heldout=scored[len(rows.train) :])


def own_logprobs(speaker: Speaker, next_ids: Tensor) -> Tensor:
    """Return the log-probabilities of the next tokens, in nats, on the CPU."""
    parts = []
    for start in range(0, len(next_ids), TOKENS_AT_ONCE):
        tokens = slice(start, start + TOKENS_AT_ONCE)
        logprobs = speaker.logprobs(tokens)
        parts.append(logprobs.gather(-1, next_ids[tokens, None].to(logprobs.device)).squeeze(-1).cpu())
    return torch.cat(parts)


def sentence_ends(tokenizer: Any, example: Example) -> Sequence[int]:
    """Return one past the last token of each sentence of the answer; its last token always ends one."""
    texts = [tokenizer.decode([token]) for token in example.answer_ids]
    ends = [place + 1 for place, text in enumerate(texts) if text.rstrip(" ").endswith(SENTENCE_ENDS)]
    return ends if ends and ends[-1] == len(texts) else [*ends, len(texts)]
