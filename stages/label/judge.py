"""Stage `judge`: a model scores answers without a reference; what scores too low is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field

from attar.compressors.catalogue import build
from attar.compressors.data.judging import NUM_GRADES, digit_ids, expected_grade, judge_question, selective_accuracy
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.models.slots import pad_right
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.curation import Dropped
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.teacher_shards import carry_candidates
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.writers import open_runner
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note

# Parts of the answers, best first, on which the judge is held against the verifiers.
KEPT_FRACTIONS = (0.25, 0.5, 0.75, 1.0)


class JudgeConfig(StageConfig):
    """Which answers stay."""

    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least score of a training row that stays, in [0, 1]: the expected grade divided by 9."""

    keep_best: int = Field(default=0, ge=0)
    """Keep at most this many answers of each training question, the best first; 0: all. Best-of-n with n samples of `answer`."""

    batch_size: int = Field(default=16, ge=1)
    """Answers judged together."""

    precision: Precision = "auto"
    """Dtype of a torch judge."""


@dataclass(frozen=True, kw_only=True)
class JudgeInputs:
    """The judge, and the answers."""

    model: ModelArtifact | OnnxArtifact
    data: DatasetArtifact


def _forecast(config: JudgeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    data = inputs["data"][0]
    facts = {name: data[name] for name in ("num_rows", "num_recorded", "vocab_size") if name in data}
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_flops = 2.0 * num_parameters * float(data.get("num_rows", 0)) * 300
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters)


@stage("judge", version=2, forecast=_forecast)
def judge(config: JudgeConfig, inputs: JudgeInputs, workdir: Path) -> DatasetArtifact:
    """Put the judge's score beside every answer, and leave out training rows that score low; held-out rows stay.

    Where answers have verifiers the judge is held against them: accuracy of the best-scored quarter, half, three quarters and all.
    Raises ValueError when no training row is left. https://arxiv.org/abs/2409.00935
    """
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question and row.answer]
    if not rows:
        raise ValueError("the data set has no answers to judge")
    grader = Grader(inputs.model, config.batch_size, config.precision)
    scored = grader.scored(workdir, rows, lambda row: judge_question(row.question, row.answer))
    chosen_ids = _chosen_ids(config, scored)
    if not any(row.split == "train" for row in chosen_ids):
        raise ValueError(
            f"no training row scores {config.min_score} or more; the best has {max(row.score or 0.0 for row in scored):.2f}"
        )
    _report(scored)
    ids = {row.id for row in chosen_ids}
    dropped = [Dropped(row, f"judged low (score {row.score:.2f})") for row in scored if row.id not in ids]
    content, facts = workdir / "content", inputs.data.facts
    write_rows(content / "rows.jsonl", chosen_ids)
    carry_candidates(inputs.data.path, content, chosen_ids)
    name = facts.name or "judged"
    write_card(content, chosen_ids, name=name, dropped=dropped)
    made = DatasetFacts(
        name=name,
        num_rows=len(chosen_ids),
        num_heldout=sum(row.split == "heldout" for row in chosen_ids),
        num_recorded=facts.num_recorded,
        vocab_size=facts.vocab_size,
    )
    return DatasetArtifact.at(content, made)


class Grader:
    """A model that grades what it is asked about, by the digit that it expects."""

    def __init__(self, model: ModelArtifact | OnnxArtifact, batch_size: int, precision: Precision) -> None:
        self.tokenizer, self.runner = load_tokenizer(model.path), open_runner(model, precision)
        self.digits, self.batch_size = digit_ids(self.tokenizer), batch_size

    def scored(self, workdir: Path, rows: Sequence[Row], prompt_of: Callable[[Row], str]) -> list[Row]:
        """Return the rows with their score: the grade that is expected for what `prompt_of` says of each, divided by 9."""

        def work(shard: Sequence[Row]) -> list[Row]:
            grades = self._grades([chat_prompt(self.tokenizer, prompt_of(row)) for row in shard])
            return [row.with_changes(score=grade / (NUM_GRADES - 1)) for row, grade in zip(shard, grades, strict=True)]

        return by_shard(workdir, "judging", rows, work)

    @torch.inference_mode()
    def _grades(self, prompts: Sequence[list[int]]) -> list[float]:
        grades = [0.0] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            ids, mask = pad_right([prompts[index] for index in chunk], self.runner.device)
            logits, _ = self.runner.forward(ids, mask, None, last_only=False)
            last = mask.sum(dim=-1) - 1
            expected = expected_grade(logits[torch.arange(len(chunk), device=logits.device), last], self.digits)
            for index, value in zip(chunk, expected.tolist(), strict=True):
                grades[index] = value
        return grades


def _chosen_ids(config: JudgeConfig, rows: Sequence[Row]) -> list[Row]:
    best: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (-(row.score or 0.0), row.id)):
        best.setdefault(row.question, []).append(row.id)
    chosen = {token_id for ids in best.values() for token_id in (ids[: config.keep_best] if config.keep_best else ids)}
    return [
        row for row in rows if row.split != "train" or (row.id in chosen and (row.score or 0.0) >= config.min_score)
    ]


def _report(rows: Sequence[Row]) -> None:
    metric("mean_score", sum(row.score or 0.0 for row in rows) / len(rows))
    checked = [row for row in rows if row.verifier != "none" and row.reference]
    if not checked:
        note(f"judged {len(rows)} answers; none has a verifier to hold the judge against")
        return
    is_right = [build(ANSWER_CHECKS, row.verifier)(row.answer, row.reference, row.choices) is None for row in checked]
    accuracies = selective_accuracy([row.score or 0.0 for row in checked], is_right, KEPT_FRACTIONS)
    for fraction, accuracy in zip(KEPT_FRACTIONS, accuracies, strict=True):
        metric(f"accuracy_of_best_{round(100 * fraction)}", accuracy)
    note(f"of the best-scored half {accuracies[1]:.3f} are right, of all {accuracies[-1]:.3f}")
