"""How a data set is rewritten: the config of `self_data`, and what it refuses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.data.styles import rewrite_question
from attar.compressors.data.verifiers.catalogue import BannedPhrases
from attar.stages.artifacts.chat_server import ServerConfig
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision


class SelfDataConfig(StageConfig):
    """How answers are rewritten, checked and recorded."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest rewrite in tokens; a rewrite that hits it falls back to the reference."""

    sampler: Literal["torch", "onnx", "server"] = "torch"
    """Who writes: the input model in torch, the input graph in ONNX Runtime, or a server of the same model."""

    server: ServerConfig | None = None
    """Where the server is and how to ask it; with sampler: server alone."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy; the reference method samples."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

    batch_size: int = Field(default=32, ge=1)
    """Texts decoded together."""

    rows_per_shard: int = Field(default=256, ge=1)
    """Rows written to disk together, at least batch_size: what a crash costs. A batch drains at a shard's end, so many batches fit one."""

    num_samples_per_prompt: int = Field(default=1, ge=1)
    """Rewrites of each answer, of which one is chosen; more than one needs a temperature."""

    choose: Literal["best_of", "majority"] = "best_of"
    """best_of: the likeliest rewrite that passes. majority: the answer most rewrites came to, if it passes."""

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

    turns: Literal["every", "last"] = "every"
    """Which turns of a conversation are rewritten, each behind the data's own turns before it; the others keep their answer."""

    style: Literal["general", "instruction", "math", "multiple_choice", "code", "auto"] = "general"
    """What the model is asked, by task family. auto: multiple_choice for rows with choices, math for checked numbers, else general."""

    template: str = ""
    """Your own wording instead of a style; must contain {question} and {answer}, may contain {choices}."""

    banned_phrases: list[str] = list(BannedPhrases.phrases)
    """A rewrite that says one of these (any case) falls back to the reference."""

    seed: int = 0
    """Seed of sampling; each row has a generator of its own, so a resumed run or another batch size draws the same."""

    precision: Precision = "auto"
    """Dtype of the model while it writes."""

    @field_validator("template")
    @classmethod
    def _has_places(cls, value: str) -> str:
        if value:
            rewrite_question("", "", (), value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> SelfDataConfig:
        if self.sampler == "server" and self.server is None:
            raise ValueError(
                "sampler is 'server': server is missing; accepted: {base_url: http://HOST:PORT/v1, model: NAME}"
            )
        if self.sampler != "server" and self.server is not None:
            raise ValueError(f"server is given, but sampler is {self.sampler!r}; accepted: sampler: server")
        if self.sampler == "server" and self.num_free_texts:
            raise ValueError(
                f"num_free_texts is {self.num_free_texts}, but a chat server cannot write from the first token; accepted: 0"
            )
        if self.num_samples_per_prompt > 1 and self.temperature == 0.0:
            raise ValueError(
                f"num_samples_per_prompt is {self.num_samples_per_prompt}, but at temperature 0 all are the same; "
                "accepted: 1, or a temperature above 0"
            )
        return self
