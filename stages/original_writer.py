"""The original model as a writer: it rewrites answers with the reference in view, and writes text of its own."""

from __future__ import annotations

from collections.abc import Sequence
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
from compressors.self_data.prompts import (
    REWRITE_TEMPLATE,
    chat_prompt,
    rewrite_question,
    start_token_id,
    stop_token_ids,
)
from compressors.self_data.verifiers import VERIFIERS, BannedPhrases
from stages.contract import StageConfig
from stages.device import Precision
from stages.model_folder import load_model, load_tokenizer
from stages.rows import Row
from stages.teacher_shards import shard_name

Recorded = dict[str, tuple[Tensor, Tensor]]


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

    num_free_texts: int = Field(default=0, ge=0)
    """Texts that the model writes from `free_text_start` alone, at temperature 1: text in its own words, to calibrate and heal on."""

    free_text_tokens: int = Field(default=128, ge=2)
    """Length of each of those texts in tokens, unless it ends before."""

    free_text_start: str = ""
    """Token that a free text begins with; empty: the tokenizer's beginning-of-text token. Every eighth text is held out."""

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


class OriginalWriter:
    """The original model with all that a shard needs."""

    def __init__(self, config: SelfDataConfig, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(folder)
        model = load_model(folder, dtype, device)
        self.runner = TorchRunner(model)
        self.stop_ids = stop_token_ids(self.tokenizer, model.generation_config)
        self.banned = BannedPhrases(tuple(phrase.lower() for phrase in config.banned_phrases))

    def rewrite(self, rows: Sequence[Row], shard_index: int) -> tuple[list[Row], Recorded]:
        """Return the rows with their answers decided, and what the teacher said about each."""
        config = self.config
        asked = [rewrite_question(row.question, row.answer, config.template) for row in rows]
        generations = decode(
            self.runner,
            [chat_prompt(self.tokenizer, question) for question in asked],
            max_new_tokens=config.max_new_tokens,
            stop_ids=self.stop_ids,
            sampling=Sampling(
                temperature=config.temperature, top_p=config.top_p, generator=self._generator(shard_index)
            ),
            num_recorded=config.num_recorded,
        )
        recorded: Recorded = {}
        decided = [
            self._decide(row, generation, recorded, shard_index)
            for row, generation in zip(rows, generations, strict=True)
        ]
        return decided, recorded

    def write_freely(self, rows: Sequence[Row], shard_index: int) -> tuple[list[Row], Recorded]:
        """Return the rows with a text of the model's own, and the distributions it drew them from."""
        start = start_token_id(self.tokenizer, self.config.free_text_start)
        generations = decode(
            self.runner,
            [[start]] * len(rows),
            max_new_tokens=self.config.free_text_tokens,
            stop_ids=[*self.stop_ids, start],
            sampling=Sampling(temperature=1.0, generator=self._generator(shard_index)),
            num_recorded=self.config.num_recorded,
        )
        recorded: Recorded = {}
        written = []
        for row, generation in zip(rows, generations, strict=True):
            if self.config.num_recorded:
                recorded[row.id] = _candidates(generation)
            text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
            written.append(
                row.with_changes(
                    text=text or " ",
                    source="free",
                    reason="free text (from the first token)",
                    prompt_ids=[start],
                    answer_ids=generation.token_ids,
                    recorded_in=shard_name(shard_index) if row.id in recorded else "",
                )
            )
        return written, recorded

    def _generator(self, shard_index: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + shard_index)

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
            return _candidates(generation)
        if self.config.record == "rewrites":
            return None
        # Without the reference in view: a model that sees the answer would only say "copy it".
        prompt = chat_prompt(self.tokenizer, row.question)
        ids, mask = pad_right([[*prompt, *answer_ids][:-1]], self.runner.device)
        logits, _ = self.runner.forward(ids, mask, None, last_only=False)
        logprobs = logits[0, len(prompt) - 1 :].float().log_softmax(dim=-1)
        values, top_ids = logprobs.topk(min(self.config.num_recorded, logprobs.shape[-1]), dim=-1)
        return top_ids.cpu(), values.cpu()


def _candidates(generation: Generation) -> tuple[Tensor, Tensor]:
    return torch.stack(generation.top_ids), torch.stack(generation.top_logprobs)
