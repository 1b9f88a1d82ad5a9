"""Stage `learn_skills`: the model sums up, in a line a question, what its own judged attempts at it taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.styles import filled
from attar.compressors.models.sampling import GREEDY
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.samplers import Prompt, RunnerSampler
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.artifacts.writers import open_runner, stop_ids_of
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note

FIELDS = ("{question}", "{right}", "{wrong}")
NOTHING = "(none)"


class LearnSkillsConfig(StageConfig):
    """How the model is asked for a skill."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest skill in tokens; a longer one is cut there."""

    template: str = (
        "{question}\n\nAn attempt that was right:\n{right}\n\nAn attempt that was wrong:\n{wrong}\n\n"
        "In one sentence, without the answer itself: what should one do, and what avoid, to get this right?"
    )
    """What is asked; must contain {question}, {right} and {wrong}. The wording is ours."""

    batch_size: int = Field(default=32, ge=1)
    """Skills written together."""

    precision: Precision = "auto"
    """Dtype of a torch model while it writes."""

    @field_validator("template")
    @classmethod
    def _has_fields(cls, value: str) -> str:
        for field in FIELDS:
            if field not in value:
                raise ValueError(f"template has no {field}")
        return value


@dataclass(frozen=True, kw_only=True)
class LearnSkillsInputs:
    """The model, the questions, and its attempts at them, as `answer` writes them."""

    model: ModelArtifact | OnnxArtifact
    data: DatasetArtifact
    attempts: DatasetArtifact


def _forecast(config: LearnSkillsConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    num_parameters, num_rows = float(model.get("num_parameters", 0)), float(data.get("num_rows", 0))
    num_flops = 2.0 * num_parameters * num_rows * (200 + config.max_new_tokens)
    return Forecast(
        {"num_recorded": 0, **rows_alike(data)}, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters
    )


@stage("learn_skills", version=2, forecast=_forecast)
def learn_skills(config: LearnSkillsConfig, inputs: LearnSkillsInputs, workdir: Path) -> DatasetArtifact:
    """Put beside each question what the model learned from its attempts; a question without judged attempts gets nothing.

    Raises ValueError when no question has an attempt. https://arxiv.org/abs/2604.10674
    """
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question]
    tried: dict[str, list[Row]] = {}
    for attempt in read_rows(inputs.attempts.path / "rows.jsonl"):
        tried.setdefault(attempt.question, []).append(attempt)
    questions = [row for row in rows if row.verifier != "none" and row.question in tried]
    if not questions:
        raise ValueError(
            "no question has a judged attempt; give attempts of the same data set, with keep: all, and a verifier"
        )
    tokenizer = load_tokenizer(inputs.model.path)
    sampler = RunnerSampler(
        open_runner(inputs.model, config.precision), stop_ids_of(tokenizer, inputs.model.path), config.batch_size
    )

    def skilled(shard: Sequence[Row]) -> list[Row]:
        texts = [_skill_prompt(config.template, row, tried[row.question]) for row in shard]
        written = sampler.sample(
            [Prompt(text, chat_prompt(tokenizer, text), 0) for text in texts],
            max_new_tokens=config.max_new_tokens,
            sampling=GREEDY,
        )
        skills = [tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in written]
        return [row.with_changes(skill=" ".join(text.split())) for row, text in zip(shard, skills, strict=True)]

    skilled_rows = {row.id: row for row in by_shard(workdir, "learning from attempts", questions, skilled)}
    rows = [skilled_rows.get(row.id, row) for row in rows]
    return _finish(inputs, workdir / "content", rows)


def _finish(inputs: LearnSkillsInputs, content: Path, rows: list[Row]) -> DatasetArtifact:
    num_skilled = sum(bool(row.skill) for row in rows)
    metric("skilled_fraction", num_skilled / len(rows))
    note(f"{num_skilled} of {len(rows)} questions have a skill")
    write_rows(content / "rows.jsonl", rows)
    name = inputs.data.facts.name or "skills"
    write_card(content, rows, name=name)
    num_heldout = sum(row.split == "heldout" for row in rows)
    facts = DatasetFacts(name=name, num_rows=len(rows), num_heldout=num_heldout, num_recorded=0)
    return DatasetArtifact.at(content, facts)


def _skill_prompt(template: str, row: Row, attempts: Sequence[Row]) -> str:
    verifier = build(ANSWER_CHECKS, row.verifier)
    judged = [
        (attempt.answer, verifier(attempt.answer, row.reference or row.answer, row.choices) is None)
        for attempt in attempts
    ]
    right = next((text for text, passes in judged if passes), NOTHING)
    wrong = next((text for text, passes in judged if not passes), NOTHING)
    return filled(template, question=row.question, right=right, wrong=wrong)
