"""Stage `choose_answers`: of many answers to a question keep those that teach most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from attar.compressors.data.trajectories import farthest_texts
from attar.compressors.distill.losses.weights.sample_weights import teacher_score
from attar.compressors.measure.likelihood import scoring_batches
from attar.compressors.models.runner import CausalRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.curation import Dropped
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.samples import exact_tokens
from attar.stages.artifacts.dataset.teacher_shards import carry_candidates
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.writers import open_runner
from attar.stages.contract import Forecast, StageConfig, check_vocabulary, stage
from attar.stages.finetune.sentence_scores import sentence_ends
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note


class ChooseAnswersConfig(StageConfig):
    """What makes an answer worth learning."""

    by: Literal["teacher_sentences", "edit_distance"]
    """teacher_sentences: the share of sentences that the teacher finds likelier than the student. edit_distance: far from each other."""

    keep_fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    """By teacher_sentences: share of the training answers that stay, the best scores first."""

    delta_nats: float = Field(default=math.log(2.0), ge=0.0)
    """By teacher_sentences: a sentence is the teacher's own when its mean log-probability a token is so much above the student's."""

    num_kept: int = Field(default=2, ge=1)
    """By edit_distance: answers that stay of each training question; equal ones never do."""

    batch_size: int = Field(default=8, ge=1)
    """Answers scored together."""

    precision: Precision = "auto"
    """Dtype of the models while they score."""


@dataclass(frozen=True, kw_only=True)
class ChooseAnswersInputs:
    """The answers; by teacher_sentences also the teacher that wrote them and the student before it learns."""

    data: DatasetArtifact
    teacher: ModelArtifact | None = None
    student: ModelArtifact | None = None


def _forecast(config: ChooseAnswersConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    models = [facts for name in ("teacher", "student") for facts in inputs.get(name, ())]
    if config.by == "teacher_sentences" and len(models) < 2:
        raise ValueError(
            "by is 'teacher_sentences': give the inputs teacher and student, whose likelihoods are compared"
        )
    if config.by == "edit_distance" and models:
        raise ValueError("by is 'edit_distance': no model is asked; leave teacher and student out")
    if models:
        check_vocabulary(models[0], models[1], "student")
    unchanged_facts = ("num_rows", "num_recorded", "vocab_size")
    facts = {key: inputs["data"][0][key] for key in unchanged_facts if key in inputs["data"][0]}
    num_parameters = sum(float(model.get("num_parameters", 0)) for model in models)
    num_rows = float(inputs["data"][0].get("num_rows", 0))
    return Forecast(facts, num_flops=2.0 * num_parameters * num_rows * 300, peak_memory_bytes=6.0 * num_parameters)


@stage("choose_answers", version=2, forecast=_forecast)
def choose_answers(config: ChooseAnswersConfig, inputs: ChooseAnswersInputs, workdir: Path) -> DatasetArtifact:
    """Keep the answers that are most the teacher's own, or most unlike each other; held-out rows stay. Raises ValueError without any.

    https://arxiv.org/abs/2601.09088, https://arxiv.org/abs/2508.09883
    """
    rows = read_rows(inputs.data.path / "rows.jsonl")
    train = [row for row in rows if row.split == "train" and row.question]
    if not train:
        raise ValueError("the data set has no training answers to choose from")
    if config.by == "teacher_sentences":
        scored = _scored(config, inputs, train, workdir)
        order = sorted(scored, key=lambda row: (-(row.score or 0.0), row.id))
        chosen = {row.id: row for row in order[: max(1, round(config.keep_fraction * len(order)))]}
        metric("mean_score", sum(row.score or 0.0 for row in scored) / len(scored))
        metric("mean_score_kept", sum(row.score or 0.0 for row in chosen.values()) / len(chosen))
        reason = "less the teacher's own"
    else:
        chosen = {row.id: row for row in _farthest(train, config.num_kept)}
        reason = "too like another answer"
    return _finish(inputs, workdir / "content", rows, chosen, reason)


def _farthest(rows: Sequence[Row], num_kept: int) -> list[Row]:
    by_question: dict[str, list[Row]] = {}
    for row in rows:
        by_question.setdefault(row.question, []).append(row)
    return [some[i] for some in by_question.values() for i in farthest_texts([text.answer for text in some], num_kept)]


def _scored(config: ChooseAnswersConfig, inputs: ChooseAnswersInputs, rows: Sequence[Row], workdir: Path) -> list[Row]:
    assert inputs.teacher is not None and inputs.student is not None, "checked in the forecast"
    tokenizer = load_tokenizer(inputs.teacher.path)
    runners = [open_runner(model, config.precision) for model in (inputs.teacher, inputs.student)]

    def scored(shard: Sequence[Row]) -> list[Row]:
        pairs = [exact_tokens(tokenizer, row) for row in shard]
        logprobs = [token_logprobs(runner, pairs, config.batch_size) for runner in runners]
        rows = []
        for row, (_, answer), teacher, student in zip(shard, pairs, *logprobs, strict=True):
            ends = sentence_ends(tokenizer, answer)
            rows.append(row.with_changes(score=teacher_score(teacher, student, ends, config.delta_nats)))
        return rows

    return by_shard(workdir, "comparing likelihoods", rows, scored)


@torch.inference_mode()
def token_logprobs(
    runner: CausalRunner, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[Float[Tensor, "T"]]:
    """Return the log-probability of every token of each continuation in nats, on the CPU."""
    logprobs: dict[int, Tensor] = {}
    for locations, input_ids, mask in scoring_batches(pairs, batch_size, runner.device):
        logits, _ = runner.forward(input_ids, mask, None, last_only=False)
        for row, (index, columns) in enumerate(locations):
            ids = torch.tensor(pairs[index][1], device=logits.device)[:, None]
            logprobs[index] = logits[row, columns].float().log_softmax(dim=-1).gather(-1, ids)[:, 0].cpu()
    return [logprobs[index] for index in range(len(pairs))]


def _finish(
    inputs: ChooseAnswersInputs, content: Path, rows: list[Row], replacements: Mapping[str, Row], reason: str
) -> DatasetArtifact:
    chosen = [replacements.get(row.id, row) for row in rows if row.split != "train" or row.id in replacements]
    dropped = [Dropped(row, reason) for row in rows if row.split == "train" and row.id not in replacements]
    write_rows(content / "rows.jsonl", chosen)
    carry_candidates(inputs.data.path, content, chosen)
    note(f"kept {len(chosen)} of {len(rows)} rows; {len(dropped)} {reason}")
    facts = inputs.data.facts
    name = facts.name or "chosen"
    write_card(content, chosen, name=name, dropped=dropped)
    made = DatasetFacts(
        name=name,
        num_rows=len(chosen),
        num_heldout=sum(row.split == "heldout" for row in chosen),
        num_recorded=facts.num_recorded,
        vocab_size=facts.vocab_size,
    )
    return DatasetArtifact.at(content, made)
