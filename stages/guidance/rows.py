"""The rows that `guide_data` drew, as training examples that carry their guidance scale."""

from __future__ import annotations

from dataclasses import dataclass

from attar.compressors.distill.examples.packing import Example
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.partition import choosing_part, shared_rows_note
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.runtime.progress import note


@dataclass(frozen=True)
class GuidedRows:
    """Examples to learn and to evaluate, and the range of their scales."""

    rows: TrainingRows
    low: float
    high: float


def read_guided(config: GuideConfig, inputs: GuideInputs) -> GuidedRows:
    """Read every data set once. Raises ValueError for rows without a scale, and when none is there to learn or to measure on."""
    teacher = inputs.teacher or inputs.model
    for data in inputs.data:
        if data.facts.guided_model != teacher.fingerprint:
            raise ValueError(
                f"the data was drawn from model {str(data.facts.guided_model)[:12]}, not from {teacher.fingerprint[:12]}; "
                "give the model it was drawn from as the input teacher"
            )
    rows = TrainingRows([], [], [], [], [], [], [])
    for source, data in enumerate(inputs.data):
        _read_dataset(config, data, source, rows)
    if not rows.train:
        raise ValueError("the data has no training rows")
    if not rows.heldout_rows:
        raise ValueError("the data has no held-out rows, which the gate is measured on; raise heldout_fraction")
    facts = [data.facts for data in inputs.data]
    low, high = min(fact.min_scale for fact in facts), max(fact.max_scale for fact in facts)
    return GuidedRows(rows, low, high)


def _read_dataset(config: GuideConfig, data: DatasetArtifact, source: int, into: TrainingRows) -> None:
    teacher = TeacherRecord(data.path)
    rows = read_rows(data.path / "rows.jsonl")
    part = choosing_part(rows)
    if part == "heldout":
        note(shared_rows_note(data.facts.name or f"data {source + 1}", "decide which state is kept"))
    for row in rows:
        if row.guidance_scale is None or not row.answer_ids:
            raise ValueError(f"row {row.id} carries no guidance scale; make the data with guide_data")
        example = _example(config, row, teacher)
        if row.split == part:
            into.heldout.append(example)
        if row.split == "heldout":
            into.heldout_rows.append(row)
        elif row.split == "train":
            into.train.append(example)
            into.sources.append(source)
            into.ids.append(row.id)


def _example(config: GuideConfig, row: Row, teacher: TeacherRecord) -> Example:
    answer = row.answer_ids[: max(1, config.training.rows.max_tokens - len(row.prompt_ids))]
    recorded = teacher.of(row)
    ids, logprobs = (None, None) if recorded is None else (part[: len(answer)] for part in recorded)
    # a lora knows one scale, which it need not be told
    scale = None if config.adapter == "lora" else row.guidance_scale
    return Example(row.prompt_ids, answer, ids, logprobs, scale=scale)
