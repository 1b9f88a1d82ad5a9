"""Stage `curate`: leave out rows that repeat others, hold evaluation questions, loop, or are too long, too easy or too hard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from attar.compressors.data.keep import reason_kind
from attar.registry.artifacts.handles import DatasetArtifact, Facts, ModelArtifact
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.curation import Curation
from attar.stages.artifacts.dataset.measured_data import measured_rows, unique_names
from attar.stages.artifacts.dataset.original_losses import Losses, losses_under_model, recorded_losses
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.teacher_shards import carry_candidates
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.contract import Forecast, StageConfig, check_vocabulary, stage
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


class CurateConfig(StageConfig):
    """Which rows are left out. Filters run in the order of these fields; a row is counted under the first that drops it."""

    min_characters: int = Field(default=1, ge=0)
    """Shortest answer, or text, in characters."""

    max_characters: int = Field(default=0, ge=0)
    """Longest answer, or text, in characters; 0: no limit."""

    min_tokens: int = Field(default=0, ge=0)
    """Shortest answer, or text, in tokens. Needs the input `model`, or rows that a model wrote."""

    max_tokens: int = Field(default=0, ge=0)
    """Longest answer, or text, in tokens; 0: no limit. Needs what `min_tokens` needs."""

    min_distinct_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Least share of distinct runs of three words in an answer, in [0, 1]; one in a loop has few. 0: loops stay."""

    min_pass_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of the original's samples that passed, in [0, 1]; below it a question is too hard for the original."""

    max_pass_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Largest share of the original's samples that passed, in [0, 1]; above it a question teaches little."""

    duplicate_threshold: float = Field(default=0.8, ge=0.0, le=1.0)
    """Jaccard similarity, in (0, 1], from which two rows are the same; 1: only equal ones; 0: duplicates stay. Of two, the held-out one stays."""

    duplicates_of: Literal["question", "answer", "both"] = "both"
    """What is compared: rows with equal questions and different answers are duplicates by `question` alone."""

    shingle_words: int = Field(default=3, ge=1)
    """Length in words of the runs that similarity is counted in; shorter finds looser likenesses."""

    ngram_words: int = Field(default=13, ge=1)
    """Length in words of a run that, shared with a question, answer or text of `tasks`, makes a row contaminated."""

    min_ngram_words: int = Field(default=8, ge=1)
    """A shorter task question is one run itself, down to this many words; below, only the same question overlaps."""

    max_ngram_rows: int = Field(default=10, ge=1)
    """A run that occurs in more rows than this is a phrase of the prompt's form, and no overlap."""

    decontaminate: Literal["train", "all"] = "train"
    """Which rows may not overlap `tasks`. A held-out row is not learned from, but chooses the adapter that is kept."""

    max_rows: int = Field(default=0, ge=0)
    """Keep at most this many training rows; 0: all. Held-out rows stay."""

    keep_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Keep at most this share of the training rows that are left, in (0, 1]."""

    budget_by: Literal["farthest", "random"] = "farthest"
    """Which rows `max_rows` and `keep_fraction` keep: those farthest apart in words, or any, by a hash of their ids."""

    num_scored_rows: int = Field(default=64, ge=0)
    """Rows whose loss under the original is measured for the data card, with `model` or from recorded log-probabilities; 0: none."""

    precision: Precision = "auto"
    """Dtype of the model while it scores."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> CurateConfig:
        for least, most in (("min_characters", "max_characters"), ("min_tokens", "max_tokens")):
            if 0 < getattr(self, most) < getattr(self, least):
                raise ValueError(f"{most} is {getattr(self, most)}, but {least} is {getattr(self, least)}")
        if self.max_pass_rate < self.min_pass_rate:
            raise ValueError(f"max_pass_rate is {self.max_pass_rate}, but min_pass_rate is {self.min_pass_rate}")
        if self.min_ngram_words > self.ngram_words:
            raise ValueError(
                f"min_ngram_words is {self.min_ngram_words}; accepted: at most ngram_words, {self.ngram_words}"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class CurateInputs:
    """The rows; the tasks and plain texts for evaluation that they may not hold; the original model, for lengths in tokens and losses."""

    data: DatasetArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    model: ModelArtifact | None = None


def _forecast(config: CurateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    data = inputs["data"][0]
    model = next(iter(inputs.get("model", ())), None)
    if (config.min_tokens or config.max_tokens) and model is None and "num_recorded" not in data:
        name = "max_tokens" if config.max_tokens else "min_tokens"
        raise ValueError(
            f"{name} is {getattr(config, name)}: no tokens to count; give the input model, or use characters"
        )
    facts: Facts = {name: data[name] for name in ("num_rows", "num_recorded", "vocab_size") if name in data}
    if model is None:
        return Forecast(facts)
    check_vocabulary(model, data, "recorded teacher")
    num_parameters = float(model.get("num_parameters", 0))
    # a rewrite and its reference, prompts included
    num_scored = min(config.num_scored_rows, float(data.get("num_rows", config.num_scored_rows)))
    num_flops = 2.0 * num_parameters * num_scored * 2 * 300
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters * bool(config.num_scored_rows))


@stage("curate", version=3, forecast=_forecast)
def curate(config: CurateConfig, inputs: CurateInputs, workdir: Path) -> DatasetArtifact:
    """Leave out repeated, contaminated, looping, over-long and too easy or hard rows; say which and why in a data card.

    Rows keep their ids, order and recorded teacher. Raises ValueError when nothing is left to train on or to hold out.
    """
    rows = read_rows(inputs.data.path / "rows.jsonl")
    tokenizer = load_tokenizer(inputs.model.path) if inputs.model else None
    curation = Curation(rows)
    curation.keep_lengths(config.min_characters, config.max_characters, "characters", lambda row: len(_told(row)))
    if config.min_tokens or config.max_tokens:
        curation.keep_lengths(config.min_tokens, config.max_tokens, "tokens", lambda row: _num_tokens(row, tokenizer))
    curation.keep_varied(config.min_distinct_fraction)
    curation.keep_pass_rates(config.min_pass_rate, config.max_pass_rate)
    if config.duplicate_threshold:
        curation.keep_unique(config.duplicate_threshold, config.duplicates_of, config.shingle_words)
    if inputs.tasks:
        options = {name: getattr(config, name) for name in ("ngram_words", "min_ngram_words", "max_ngram_rows")}
        names = unique_names(inputs.tasks, "task")
        tasks = [(name, measured_rows(data)) for name, data in zip(names, inputs.tasks, strict=True)]
        for name, some in tasks:
            if not some:
                raise ValueError(f"tasks: data set {name!r} has neither questions nor text")
        curation.keep_unseen(tasks, config.decontaminate, **options)
    curation.keep_budget(config.max_rows, config.keep_fraction, config.budget_by)
    curation.check()
    return _finish(config, inputs, workdir / "content", curation)


def _told(row: Row) -> str:
    return row.answer or row.text


def _num_tokens(row: Row, tokenizer: Any) -> int:
    if row.answer_ids:
        return len(row.answer_ids)
    if tokenizer is None:
        raise ValueError(f"row {row.id} has no tokens to count: give the input model, or use characters")
    return len(tokenizer(_told(row), add_special_tokens=False).input_ids)


def _finish(config: CurateConfig, inputs: CurateInputs, content: Path, curation: Curation) -> DatasetArtifact:
    rows, facts = curation.rows, inputs.data.facts
    write_rows(content / "rows.jsonl", rows)
    carry_candidates(inputs.data.path, content, rows)
    for kind, count in curation.counts.items():
        # a task's name may hold what MLflow refuses in a metric's
        metric("num_dropped_" + re.sub(r"[^\w.-]", "_", kind), count)
    metric("kept_fraction", len(rows) / (len(rows) + len(curation.dropped)))
    why = "".join(f"; {count} {kind}" for kind, count in curation.counts.most_common())
    note(f"kept {len(rows)} of {len(rows) + len(curation.dropped)} rows{why}")
    name = str(facts.get("name", "curated"))
    write_card(content, rows, name=name, dropped=curation.dropped, losses=_losses(config, inputs, rows))
    made: Facts = {name: facts[name] for name in ("num_recorded", "vocab_size") if name in facts}
    if "num_rewritten" in facts:
        made["num_rewritten"] = sum(reason_kind(row.reason) == "rewritten" for row in rows)
    num_heldout = sum(row.split == "heldout" for row in rows)
    return DatasetArtifact.at(
        content, name=name, num_rows=len(rows), num_heldout=num_heldout, num_dropped=len(curation.dropped), **made
    )


def _losses(config: CurateConfig, inputs: CurateInputs, rows: list[Row]) -> Losses | None:
    if not config.num_scored_rows:
        return None
    if inputs.model is None:
        return recorded_losses(inputs.data.path, rows, config.num_scored_rows)
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    return losses_under_model(inputs.model.path, rows, config.num_scored_rows, dtype, device)
