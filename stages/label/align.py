"""Stage `align`: how likely a teacher with another tokenizer finds each answer, in chunks that both tokenizers agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from attar.compressors.distill.examples.chunks import chunk_sums, common_ends
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.artifacts.writers import open_runner
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.label.choose_answers import token_logprobs
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note


class AlignConfig(StageConfig):
    """How the teacher reads."""

    batch_size: int = Field(default=8, ge=1)
    """Answers scored together."""

    precision: Precision = "auto"
    """Dtype of the teacher."""


@dataclass(frozen=True, kw_only=True)
class AlignInputs:
    """The teacher, the student for its tokenizer, and rows with questions and answers."""

    teacher: ModelArtifact
    student: ModelArtifact
    data: DatasetArtifact


def _forecast(config: AlignConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    num_parameters = float(inputs["teacher"][0].get("num_parameters", 0))
    num_rows = float(inputs["data"][0].get("num_rows", 0))
    facts = {"num_recorded": 0, **rows_alike(inputs["data"][0])}
    student = inputs["student"][0]
    if "vocab_size" in student:
        facts["vocab_size"] = student["vocab_size"]
    return Forecast(facts, num_flops=2.0 * num_parameters * num_rows * 300, peak_memory_bytes=6.0 * num_parameters)


@stage("align", version=2, forecast=_forecast)
def align(config: AlignConfig, inputs: AlignInputs, workdir: Path) -> DatasetArtifact:
    """Cut each answer into the shortest stretches that both tokenizers end together, with the teacher's log-likelihood of each.

    The tokens that end an answer are a chunk of their own. Each model reads the question in its own chat template.
    Raises ValueError without a question, or for a tokenizer that does not say where its tokens lie. https://arxiv.org/abs/2503.20083
    """
    answered = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question and row.answer]
    # each template writes a call of a tool in words of its own: there is no common text to cut
    rows = [row for row in answered if not row.reply]
    if not rows:
        raise ValueError("the data set has no questions with answers in words, only text or calls of tools")
    if len(rows) < len(answered):
        note(
            f"warning: {len(answered) - len(rows)} answers call tools and are left out: two templates write a call in different words"
        )
    teacher, student = (load_tokenizer(model.path) for model in (inputs.teacher, inputs.student))
    for who, tokenizer in (("teacher", teacher), ("student", student)):
        if not tokenizer.is_fast:
            raise ValueError(
                f"the {who}'s tokenizer does not say where its tokens lie in the text (it is not a fast one)"
            )
    runner = open_runner(inputs.teacher, config.precision)

    def scored(shard: Sequence[Row]) -> list[Row]:
        pairs = [(row_prompt(teacher, row), row_answer(teacher, row)) for row in shard]
        logprobs = token_logprobs(runner, pairs, config.batch_size)
        return [_aligned(row, student, teacher, values.tolist()) for row, values in zip(shard, logprobs, strict=True)]

    aligned = by_shard(workdir, "aligning", rows, scored)
    num_chunks = sum(len(row.chunk_ends) for row in aligned)
    metric("tokens_per_chunk", sum(len(row.answer_ids) for row in aligned) / num_chunks)
    note(f"{num_chunks} chunks in {len(aligned)} answers")
    content = workdir / "content"
    write_rows(content / "rows.jsonl", aligned)
    name = inputs.data.facts.name or "aligned"
    write_card(content, aligned, name=name)
    num_heldout = sum(row.split == "heldout" for row in aligned)
    vocab_size = inputs.student.facts.vocab_size
    facts = DatasetFacts(
        name=name, num_rows=len(aligned), num_heldout=num_heldout, num_recorded=0, vocab_size=vocab_size
    )
    return DatasetArtifact.at(content, facts)


def _aligned(row: Row, student: Any, teacher: Any, nats: Sequence[float]) -> Row:
    """Return the row with its chunks in tokens of the student."""
    ends = [text_ends(tokenizer, row.answer) for tokenizer in (student, teacher)]
    pairs = common_ends(*ends)
    pairs.append((len(ends[0]) + 1, len(ends[1]) + 1))  # the tokens that end the answer
    return row.with_changes(
        prompt_ids=row_prompt(student, row),
        answer_ids=row_answer(student, row),
        chunk_ends=[student_piece for student_piece, _ in pairs],
        chunk_nats=chunk_sums(nats, [teacher_piece for _, teacher_piece in pairs]),
        recorded_in="",
    )


def text_ends(tokenizer: Any, text: str) -> list[int]:
    """Return one past the last character of each token of a text."""
    return [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping]
