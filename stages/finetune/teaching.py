"""Teacher sources, privileged context and rollouts of a training, from its config and rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.loop.drawing import Rollouts, Verdict, other_side
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.contexts import ContextBuilder, ContextParts
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.prompts import wording_of
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.random_weights import draw_weights
from attar.stages.artifacts.model.shared_vocabulary import keep_shared, shared_rows
from attar.stages.finetune.plan import Source
from attar.stages.finetune.teacher_config import NO_CONTEXT
from attar.stages.finetune.training_rows import TrainingRows

# Prompts that are written to at once.
ROLLOUT_ROWS = 32


def build_teacher_sources(
    sources: Mapping[ViewName, Source], student: Student, folder: Path, dtype: torch.dtype, device: torch.device
) -> dict[ViewName, TeacherSource]:
    """Return who speaks beside the student, whose model lies in `folder`. One of a larger vocabulary speaks over the student's tokens.

    Raises ValueError when another model lacks a token of the student's.
    """
    teacher_sources: dict[ViewName, TeacherSource] = {}
    for name, source in sources.items():
        is_hinted = name == "teacher"
        if source.rule is not None:
            teacher_sources[name] = StudentItself(source.rule, is_hinted).begin(student)
        else:
            at = source.model.path if source.model is not None else folder
            rows = shared_rows(folder, at, name)
            other = (
                load_model(at, dtype, device)
                if source.random_seed is None
                else draw_weights(at, dtype, device, source.random_seed)
            )
            other = keep_shared(other, rows, name).requires_grad_(False)
            teacher_sources[name] = OtherModel(Student(other).eval(), is_hinted)
    return teacher_sources


def with_hints(
    rows: TrainingRows, tokenizer: Any, context: ContextBuilder | None, *, has_both_sides: bool
) -> TrainingRows:
    """Put what the teacher reads beside each example, where it is known before an answer is written.

    A context that tells how an answer was judged is known for held-out rows: their answer is right. With both sides every example
    comes a second time as the teacher sees it. Raises ValueError when the context has nothing to say about any row.
    """
    if context is None:
        return rows
    privileged = PrivilegedContext(context, rows, tokenizer)
    if not context.is_known_before:
        pairs = zip(rows.heldout, rows.heldout_questions, strict=True)
        return replace(rows, heldout=[replace(pair, hinted_ids=privileged.right(pair, row)) for pair, row in pairs])
    train = [
        replace(example, hinted_ids=privileged.before(example, row))
        for example, row in zip(rows.train, rows.questions, strict=True)
    ]
    heldout = [
        replace(example, hinted_ids=privileged.before(example, row))
        for example, row in zip(rows.heldout, rows.heldout_questions, strict=True)
    ]
    if all(example.hinted_ids is None for example in train):
        raise ValueError(f"teacher.context {context} has nothing to tell about any row")
    rows = replace(rows, train=train, heldout=heldout)
    return with_other_sides(rows) if has_both_sides else rows


def with_other_sides(rows: TrainingRows) -> TrainingRows:
    """Return the rows with every hinted example a second time. Behind its hint, and the plain prompt as what the other side reads."""
    train = [index for index, example in enumerate(rows.train) if example.hinted_ids is not None]
    heldout = [index for index, example in enumerate(rows.heldout) if example.hinted_ids is not None]
    return replace(
        rows,
        train=[*rows.train, *(other_side(rows.train[index]) for index in train)],
        heldout=[*rows.heldout, *(other_side(rows.heldout[index]) for index in heldout)],
        sources=[*rows.sources, *(rows.sources[index] for index in train)],
        ids=[*rows.ids, *(rows.ids[index] for index in train)],
        questions=[*rows.questions, *(rows.questions[index] for index in train)],
        heldout_questions=[*rows.heldout_questions, *(rows.heldout_questions[index] for index in heldout)],
    )


def build_rollouts(
    policy: RolloutPolicy,
    rows: TrainingRows,
    tokenizer: Any,
    stops: Sequence[int],
    context: ContextBuilder | None,
    teacher: TeacherSource | None,
    *,
    objectives: Iterable[Objective],
    seed: int,
) -> Rollouts:
    """Return what writes each step's answers, ended by `stops`. Raises ValueError for rows that cannot be asked, or judged for a policy loss."""
    is_judged = any("rewards" in objective.requires.facts for objective in objectives)
    if any(row is None for row in rows.questions):
        raise ValueError("rollout writes answers to questions, but the data has plain text")
    unjudged = [row.id for row in rows.questions if row is not None and row.verifier == "none"]
    if is_judged and unjudged:
        raise ValueError(
            f"a policy loss needs a verifier, but rows {', '.join(unjudged[:4])} have none; set `verifier` in ingest_data"
        )
    privileged = PrivilegedContext(context or NO_CONTEXT, rows, tokenizer)
    by_name = {example.name: row for example, row in zip(rows.train, rows.questions, strict=True) if row is not None}

    def judge(example: Example, answer: Sequence[int], is_finished: bool) -> Verdict:
        row = by_name[example.name]
        text = tokenizer.decode(answer, skip_special_tokens=True)
        objection = build(ANSWER_CHECKS, row.verifier)(text, row.reference or row.answer, row.choices)
        is_correct = objection is None and is_finished and row.verifier != "none"
        return Verdict(float(is_correct), is_correct)

    def hint(
        example: Example, answer: Sequence[int], verdict: Verdict, sibling: Sequence[int] | None
    ) -> list[int] | None:
        return privileged.after(example, by_name[example.name], answer, verdict.is_correct, sibling)

    return Rollouts(policy, judge, hint, stops, seed, teacher, ROLLOUT_ROWS)


class PrivilegedContext:
    """Privileged context of rows: what the teacher reads beside the prompt, in the tokenizer's tokens."""

    def __init__(self, context: ContextBuilder, rows: TrainingRows, tokenizer: Any) -> None:
        self.context = context
        self.wording = wording_of(tokenizer)
        self.shown = [(row.question, row.answer) for row in rows.questions[:16] if row is not None]

    def before(self, example: Example, row: Row | None) -> list[int] | None:
        """Return the teacher's prompt for a row, whatever the answer."""
        return None if row is None else self.context(self._parts(example, row, example.answer_ids), self.wording)

    def right(self, example: Example, row: Row | None) -> list[int] | None:
        """Return the teacher's prompt for a row's own answer, which is right."""
        if row is None:
            return None
        return self.context(replace(self._parts(example, row, example.answer_ids), is_correct=True), self.wording)

    def after(
        self, example: Example, row: Row, answer: Sequence[int], is_correct: bool, sibling: Sequence[int] | None
    ) -> list[int] | None:
        """Return the teacher's prompt once an answer is judged."""
        if self.context.is_known_before:
            return None if example.hinted_ids is None else list(example.hinted_ids)
        parts = replace(self._parts(example, row, answer), is_correct=is_correct, sibling_ids=sibling)
        return self.context(parts, self.wording)

    def _parts(self, example: Example, row: Row, answer: Sequence[int]) -> ContextParts:
        return ContextParts(
            question=row.question,
            prompt_ids=example.prompt_ids,
            answer_ids=answer,
            reference=row.reference or row.answer,
            demonstrations=self.shown,
            skill=row.skill,
        )
