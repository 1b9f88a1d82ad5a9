"""Stage `self_data`: the original model rewrites the training answers, and its next-token distributions are recorded as it does."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from compressors.catalogue import build
from compressors.measure.decode import Generation, Sampling, decode
from compressors.measure.likelihood import pad_right
from compressors.measure.runner import TorchRunner
from compressors.self_data.keep import Verdict, keep_or_fall_back
from compressors.self_data.prompts import REWRITE_TEMPLATE, chat_prompt, rewrite_question, stop_token_ids
from compressors.self_data.verifiers import VERIFIERS, BannedPhrases
from registry.artifact import DatasetArtifact, Facts, ModelArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.device import Precision, pick_device, pick_dtype
from stages.model_folder import load_model, load_tokenizer
from stages.progress import bar, metric, note
from stages.rows import Row, read_rows, write_rows
from stages.teacher_shards import FOLDER, finished_shards, gather_rows, shard_name, write_shard


class SelfDataConfig(StageConfig):
    """How answers are rewritten, checked and recorded."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest rewrite in tokens; a rewrite that hits it falls back to the reference."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy; the reference method samples."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

    batch_size: int = Field(default=32, ge=1)
    """Rows decoded together; also the size of a shard, and so of what a crash can cost."""

    num_recorded: int = Field(default=64, ge=0)
    """How many of the teacher's candidates are kept for each token, with log-probabilities; 0 records nothing."""

    record: Literal["all", "rewrites"] = "all"
    """Which rows get a teacher: rewrites are recorded while generating; `all` also scores reference answers with one forward pass."""

    template: str = REWRITE_TEMPLATE
    """What the model is asked; must contain {question} and {answer}."""

    banned_phrases: list[str] = list(BannedPhrases.phrases)
    """A rewrite that says one of these (any case) falls back to the reference."""

    seed: int = 0
    """Seed of sampling; each shard has a generator of its own, so a resumed run draws the same."""

    precision: Precision = "auto"
    """Dtype of the model while it writes."""

    @field_validator("template")
    @classmethod
    def _has_places(cls, value: str) -> str:
        rewrite_question("", "", value)
        return value


@dataclass(frozen=True, kw_only=True)
class SelfDataInputs:
    """The original model and the rows whose answers it rewrites."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: SelfDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    num_rows = float(data.get("num_rows", 0))
    facts: Facts = {"num_recorded": config.num_recorded}
    if "vocab_size" in model:
        facts["vocab_size"] = model["vocab_size"]
        if config.num_recorded > int(model["vocab_size"]):
            raise ValueError(
                f"num_recorded is {config.num_recorded}, but the vocabulary has {model['vocab_size']} tokens"
            )
    if num_rows:
        facts["num_rows"] = int(num_rows)
    num_parameters = float(model.get("num_parameters", 0))
    # prompt with reference, then the answer, which is about as long as the limit at worst
    num_flops = 2.0 * num_parameters * num_rows * 2 * config.max_new_tokens
    disk = num_rows * config.max_new_tokens * config.num_recorded * 8.0
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters, disk_bytes=disk)


@stage("self_data", version=1, forecast=_forecast)
def self_data(config: SelfDataConfig, inputs: SelfDataInputs, workdir: Path) -> DatasetArtifact:
    """Let the original model rewrite each answer with the reference in view; keep what passes, else the reference.

    Every row says who wrote its answer and why. Shards already written by an interrupted run are kept. https://arxiv.org/abs/2410.09982
    """
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question]
    if not rows:
        raise ValueError("the data set has no questions to answer, only text")
    device = pick_device()
    writer = _Writer(config, inputs.model.path, pick_dtype(config.precision, device), device)
    # by length, so that a batch has little padding; ids keep the rows apart
    rows.sort(key=lambda row: (len(row.question) + len(row.answer), row.id))
    shards = [rows[start : start + config.batch_size] for start in range(0, len(rows), config.batch_size)]
    folder = workdir / "shards"
    done = finished_shards(folder)
    if done:
        note(f"continuing: {len(done)} of {len(shards)} shards were written before")
    counter = bar("rewriting", len(rows), "rows", done=sum(len(shards[index]) for index in done))
    for index, shard in enumerate(shards):
        if index not in done:
            write_shard(folder, index, *writer.rewrite(shard, index))
            counter.advance(len(shard))
    return _finish(config, inputs, workdir, gather_rows(folder, len(shards)))


class _Writer:
    """The original model with all that a shard needs."""

    def __init__(self, config: SelfDataConfig, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(folder)
        model = load_model(folder, dtype, device)
        self.runner = TorchRunner(model)
        self.stop_ids = stop_token_ids(self.tokenizer, model.generation_config)
        self.banned = BannedPhrases(tuple(phrase.lower() for phrase in config.banned_phrases))

    def rewrite(self, rows: Sequence[Row], shard_index: int) -> tuple[list[Row], dict[str, tuple[Tensor, Tensor]]]:
        """Return the rows with their answers decided, and what the teacher said about each."""
        config = self.config
        asked = [rewrite_question(row.question, row.answer, config.template) for row in rows]
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + shard_index)
        generations = decode(
            self.runner,
            [chat_prompt(self.tokenizer, question) for question in asked],
            max_new_tokens=config.max_new_tokens,
            stop_ids=self.stop_ids,
            sampling=Sampling(temperature=config.temperature, top_p=config.top_p, generator=generator),
            num_recorded=config.num_recorded,
        )
        recorded: dict[str, tuple[Tensor, Tensor]] = {}
        decided = [
            self._decide(row, generation, recorded, shard_index)
            for row, generation in zip(rows, generations, strict=True)
        ]
        return decided, recorded

    def _decide(self, row: Row, generation: Generation, recorded: dict, shard_index: int) -> Row:
        text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        verdict = keep_or_fall_back(
            text, row.answer, row.choices, build(VERIFIERS, row.verifier), self.banned, generation.is_finished
        )
        answer_ids = self._answer_ids(verdict, generation)
        teacher = self._teacher(row, verdict, generation, answer_ids)
        if teacher is not None:
            recorded[row.id] = teacher
        return row.with_changes(
            answer=verdict.answer,
            source=verdict.source,
            reason=verdict.reason,
            reference=row.answer,
            rewrite=text,
            answer_ids=answer_ids,
            recorded_in=shard_name(shard_index) if teacher is not None else "",
        )

    def _answer_ids(self, verdict: Verdict, generation: Generation) -> list[int]:
        if verdict.source == "rewrite":
            return generation.token_ids
        ids = self.tokenizer(verdict.answer, add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

    def _teacher(
        self, row: Row, verdict: Verdict, generation: Generation, answer_ids: list[int]
    ) -> tuple[Tensor, Tensor] | None:
        if not self.config.num_recorded:
            return None
        if verdict.source == "rewrite":
            return torch.stack(generation.top_ids), torch.stack(generation.top_logprobs)
        if self.config.record == "rewrites":
            return None
        # Without the reference in view: a model that sees the answer would only say "copy it".
        prompt = chat_prompt(self.tokenizer, row.question)
        ids, mask = pad_right([[*prompt, *answer_ids][:-1]], self.runner.device)
        logits, _ = self.runner.forward(ids, mask, None, last_only=False)
        logprobs = logits[0, len(prompt) - 1 :].float().log_softmax(dim=-1)
        values, top_ids = logprobs.topk(min(self.config.num_recorded, logprobs.shape[-1]), dim=-1)
        return top_ids.cpu(), values.cpu()


def _finish(config: SelfDataConfig, inputs: SelfDataInputs, workdir: Path, rows: list[Row]) -> DatasetArtifact:
    rows.sort(key=lambda row: row.id)
    content = workdir / "content"
    write_rows(content / "rows.jsonl", rows)
    if any(row.recorded_in for row in rows):
        shutil.copytree(workdir / "shards" / FOLDER, content / FOLDER)
    num_kept = sum(row.source == "rewrite" for row in rows)
    metric("kept_fraction", num_kept / len(rows))
    reasons = Counter(_kind_of(row.reason) for row in rows if row.source == "reference")
    note(
        f"kept {num_kept} of {len(rows)} rewrites"
        + "".join(f"; {count} {why}" for why, count in reasons.most_common(4))
    )
    return DatasetArtifact.at(
        content,
        name=inputs.data.facts.get("name", "rewritten"),
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_rewritten=num_kept,
        num_recorded=config.num_recorded,
        vocab_size=inputs.model.facts["vocab_size"],
    )


def _kind_of(reason: str) -> str:
    """Group reasons that differ only in what was said."""
    return " ".join(word for word in reason.split() if not any(mark in word for mark in "'[]0123456789"))
