"""How much of each training answer is the teacher's own way of saying it: what the sample weight divergence_aware reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attar.compressors.data.trajectories import sentence_ends as text_ends
from attar.compressors.data.trajectories import token_ends
from attar.compressors.distill.examples.packing import batches
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.weights.sample_weights import teacher_score
from attar.compressors.distill.teachers.outputs import DistributionOutputs
from attar.compressors.distill.teachers.sources import Live
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import StudentItself, TeacherSource
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.runtime.progress import bar

TOKENS_AT_ONCE = 256


@torch.no_grad()
def with_scores(
    rows: TrainingRows,
    objectives: Iterable[Objective],
    tokenizer: Any,
    student: Student,
    teacher: TeacherSource | None,
    *,
    tokens_per_batch: int,
    is_packed: bool,
) -> TrainingRows:
    """Put `score` beside each example where an objective weighs by it. Teacher and student score before the first step.

    Raises ValueError without a live teacher.
    """
    if not any("scores" in objective.requires.facts for objective in objectives):
        return rows
    if teacher is None:
        raise ValueError("sample_weight divergence_aware compares teacher and student; give a live teacher")
    every = [*rows.train, *rows.heldout]
    counter = bar("scoring answers", len(every), "rows")
    before = StudentItself(Live())
    scored = list(every)
    order = range(len(every))
    for batch in batches(every, tokens_per_batch=tokens_per_batch, order=order, is_packed=is_packed):
        logprobs = [own_logprobs(source.speak(student, batch), batch.next_ids) for source in (teacher, before)]
        for row, (index, _, _) in enumerate(batch.locations):
            tokens = batch.sequences == row
            ends = sentence_ends(tokenizer, every[index].answer_ids)
            score = teacher_score(logprobs[0][tokens], logprobs[1][tokens], ends)
            scored[index] = replace(every[index], facts=replace(every[index].facts, score=score))
        counter.advance(len(batch.locations))
    return replace(rows, train=scored[: len(rows.train)], heldout=scored[len(rows.train) :])


def own_logprobs(outputs: DistributionOutputs, next_ids: Tensor) -> Tensor:
    """Return the log-probabilities of the next tokens, in nats, on the CPU."""
    parts = []
    for start in range(0, len(next_ids), TOKENS_AT_ONCE):
        tokens = slice(start, start + TOKENS_AT_ONCE)
        logprobs = outputs.logprobs(tokens)
        parts.append(logprobs.gather(-1, next_ids[tokens, None].to(logprobs.device)).squeeze(-1).cpu())
    return torch.cat(parts)


def sentence_ends(tokenizer: Any, answer_ids: Sequence[int]) -> list[int]:
    """Return one past the last token of each sentence of an answer: the one place where sentences are cut. Its last token always ends one.

    A token's text is what it adds to the text of those before it: alone, a token of many tokenizers loses the space in front of it.
    """
    pieces = token_pieces(tokenizer, answer_ids)
    return token_ends(pieces, text_ends("".join(pieces))) or [len(pieces)]


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text. Read behind those since the last whole character but one, so that long answers stay cheap."""

    def text(start: int, end: int) -> str:
        return tokenizer.decode(ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    pieces, before, read = [], 0, 0
    for end in range(1, len(ids) + 1):
        known, now = text(before, read), text(before, end)
        if len(now) > len(known) and not now.endswith("\ufffd"):
            pieces.append(now[len(known) :])
            before, read = read, end
        else:  # half a character, or a token without text
            pieces.append("")
    return pieces
