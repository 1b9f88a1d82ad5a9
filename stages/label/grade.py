"""Stage `grade`: training data for a judge out of answers with a gold reference. The model itself grades them, and likeness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from attar.compressors.data.diversity import text_features
from attar.compressors.data.judging import NUM_GRADES, REFERENCE_TEMPLATE, digit_ids, judge_question
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.styles import filled
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.label.judge import Grader
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note

BEST = NUM_GRADES - 1


class GradeConfig(StageConfig):
    """How a grade comes about."""

    self_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the model's own grade, which it gives with the reference in view; the rest is the likeness of answer and reference."""

    batch_size: int = Field(default=16, ge=1)
    """Answers graded together."""

    precision: Precision = "auto"
    """Dtype of the model while it grades."""


@dataclass(frozen=True, kw_only=True)
class GradeInputs:
    """The model, and answers with their references, as `answer` writes them."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: GradeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = float(inputs["data"][0].get("num_rows", 0))
    return Forecast(
        {"num_recorded": 0, **rows_alike(inputs["data"][0])},
        num_flops=2.0 * num_parameters * num_rows * 300,
        peak_memory_bytes=6.0 * num_parameters,
    )


@stage("grade", version=1, forecast=_forecast)
def grade(config: GradeConfig, inputs: GradeInputs, workdir: Path) -> DatasetArtifact:
    """Turn answers into a judge's questions, each with its grade: one digit, from 0 to 9.

    grade = round(9 (self_weight own + (1 - self_weight) max(0, cosine of answer and reference))), own: a ninth of the expected grade with
    the reference in view; cosine of hashed words. Raises ValueError when no row has a reference. https://arxiv.org/abs/2409.00935
    """
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question and row.reference]
    if not rows:
        raise ValueError("no row has an answer beside its reference; put the stage `answer` before")
    prompts = [judge_question(row.question, row.answer) for row in rows]
    grader = Grader(inputs.model, config.batch_size, config.precision)
    texts = dict(zip((row.id for row in rows), prompts, strict=True))
    own = grader.scored(
        workdir, rows, lambda row: filled(REFERENCE_TEMPLATE, question=texts[row.id], hint=row.reference)
    )
    alike = _likeness(rows)
    grades = [
        round(BEST * (config.self_weight * (grade_of_own.score or 0.0) + (1.0 - config.self_weight) * likeness))
        for grade_of_own, likeness in zip(own, alike, strict=True)
    ]
    made = _judge_rows(inputs, rows, prompts, grades)
    metric("mean_grade", sum(grades) / len(grades))
    note(f"grades from {min(grades)} to {max(grades)} for {len(grades)} answers")
    content = workdir / "content"
    write_rows(content / "rows.jsonl", made)
    name = inputs.data.facts.name or "graded"
    write_card(content, made, name=name)
    num_heldout = sum(row.split == "heldout" for row in made)
    vocab_size = inputs.model.facts.vocab_size
    facts = DatasetFacts(name=name, num_rows=len(made), num_heldout=num_heldout, num_recorded=0, vocab_size=vocab_size)
    return DatasetArtifact.at(content, facts)


def _likeness(rows: Sequence[Row]) -> list[float]:
    """Return the cosine of each answer with its reference, no less than 0."""
    features = text_features([*(row.answer for row in rows), *(row.reference for row in rows)])
    answers, references = features[: len(rows)], features[len(rows) :]
    return (answers * references).sum(dim=-1).clamp(min=0.0, max=1.0).tolist()


def _judge_rows(inputs: GradeInputs, rows: Sequence[Row], prompts: Sequence[str], grades: Sequence[int]) -> list[Row]:
    tokenizer = load_tokenizer(inputs.model.path)
    digits = digit_ids(tokenizer)
    return [
        Row(
            id=row.id,
            question=text,
            answer=str(value),
            reference=row.reference,
            split=row.split,
            source="grade",
            reason="graded (by the model and by likeness)",
            prompt_ids=chat_prompt(tokenizer, text),
            answer_ids=[digits[value]],  # the digit alone: what ends a turn is not judged
        )
        for row, text, value in zip(rows, prompts, grades, strict=True)
    ]
