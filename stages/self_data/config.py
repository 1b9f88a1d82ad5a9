"""How a data set is rewritten: the config of `self_data`, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.data.styles import rewrite_question
from attar.compressors.data.verifiers.catalogue import BannedPhrases
from attar.stages.artifacts.chat_server import ServerConfig
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision
from attar.stages.runtime.older_fields import Moved, within


class PromptConfig(StageConfig):
    """What the model is asked, and which rewrites are never taken."""

    style: Literal["general", "instruction", "math", "multiple_choice", "code", "auto"] = "general"
    """What the model is asked, by task family. auto: multiple_choice for rows with choices, math for checked numbers, else general."""

    template: str = ""
    """Your own wording instead of a style; must contain {question} and {answer}, may contain {choices}."""

    turns: Literal["every", "last"] = "every"
    """Which turns of a conversation are rewritten, each behind the data's own turns before it; the others keep their answer."""

    banned_phrases: list[str] = list(BannedPhrases.phrases)
    """A rewrite that says one of these (any case) falls back to the reference."""

    @field_validator("template")
    @classmethod
    def _has_fields(cls, value: str) -> str:
        if value:
            rewrite_question("", "", (), value)
        return value


class DrawingConfig(StageConfig):
    """How rewrites are drawn, and which is chosen."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest rewrite in tokens; a rewrite that hits it falls back to the reference."""

    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy; the reference method samples."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

    num_samples: int = Field(default=1, ge=1)
    """Rewrites of each answer, of which one is chosen; more than one needs a temperature."""

    choose: Literal["best_of", "majority"] = "best_of"
    """best_of: the likeliest rewrite that passes. majority: the answer most rewrites came to, if it passes."""

    seed: int = 0
    """Seed of sampling; each row has a generator of its own, so a resumed run or another batch size draws the same."""

    @model_validator(mode="after")
    def _samples_differ(self) -> DrawingConfig:
        if self.num_samples > 1 and self.temperature == 0.0:
            raise ValueError(
                f"num_samples is {self.num_samples}, but at temperature 0 all are the same; accepted: 1, or a temperature above 0"
            )
        return self


class RecordedConfig(StageConfig):
    """What of the teacher's distribution is kept."""

    num_candidates: int = Field(default=64, ge=0)
    """How many of the teacher's candidates are kept for each token, with log-probabilities; 0 records nothing."""

    rows: Literal["all", "rewrites"] = "all"
    """Which rows get a teacher: rewrites are recorded while generating; `all` also scores reference answers with one forward pass."""


class DraftsConfig(StageConfig):
    """Likely next tokens, looked up in the prompt, that the model reads in one pass. The texts are the same."""

    max_tokens: int = Field(default=8, ge=0, le=31)
    """Tokens drafted at a time at most, with sampler: torch; 0 drafts nothing. Fewer are drafted where they seldom stay."""


class FreeTextsConfig(StageConfig):
    """Texts in the model's own words, to calibrate and heal on."""

    num: int = Field(default=0, ge=0)
    """Texts that the model writes from `start` alone, at temperature 1: text in its own words, to calibrate and heal on."""

    tokens: int = Field(default=128, ge=2)
    """Length of each of those texts in tokens, unless it ends before."""

    start: str = ""
    """Token that a free text begins with; empty: the tokenizer's beginning-of-text token. Every eighth text is held out."""


class SelfDataConfig(StageConfig):
    """How answers are rewritten, checked and recorded."""

    sampler: Literal["torch", "onnx", "server"] = "torch"
    """Who writes: the input model in torch, the input graph in ONNX Runtime, or a server of the same model."""

    server: ServerConfig | None = None
    """Where the server is and how to ask it; with sampler: server alone."""

    prompt: PromptConfig = PromptConfig()
    """What the model is asked, and which rewrites are never taken."""

    drawing: DrawingConfig = DrawingConfig()
    """How rewrites are drawn, and which is chosen."""

    recorded: RecordedConfig = RecordedConfig()
    """What of the teacher's distribution is kept."""

    free_texts: FreeTextsConfig = FreeTextsConfig()
    """Texts in the model's own words, to calibrate and heal on."""

    drafts: DraftsConfig = DraftsConfig()
    """Likely next tokens, looked up in the prompt, that the model reads in one pass. The texts are the same."""

    batch_size: int = Field(default=32, ge=1)
    """Texts decoded together."""

    rows_per_shard: int = Field(default=256, ge=1)
    """Rows written to disk together, at least batch_size: what a crash costs. A batch drains at a shard's end, so many batches fit one."""

    precision: Precision = "auto"
    """Dtype of the model while it writes."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **within("prompt", *PromptConfig.model_fields),
        **within("drawing", "max_new_tokens", "temperature", "top_p", "choose", "seed"),
        "num_samples_per_prompt": Moved("drawing.num_samples"),
        "num_recorded": Moved("recorded.num_candidates"),
        "record": Moved("recorded.rows"),
        "num_free_texts": Moved("free_texts.num"),
        "free_text_tokens": Moved("free_texts.tokens"),
        "free_text_start": Moved("free_texts.start"),
    }

    @property
    def rows_of_piece(self) -> int:
        """Rows that are written together."""
        return max(self.rows_per_shard, self.batch_size)

    @model_validator(mode="after")
    def _fits_together(self) -> SelfDataConfig:
        if self.sampler == "server" and self.server is None:
            raise ValueError(
                "sampler is 'server': server is missing; accepted: {base_url: http://HOST:PORT/v1, model: NAME}"
            )
        if self.sampler != "server" and self.server is not None:
            raise ValueError(f"server is given, but sampler is {self.sampler!r}; accepted: sampler: server")
        if self.sampler == "server" and self.free_texts.num:
            raise ValueError(
                f"free_texts.num is {self.free_texts.num}, but a chat server cannot write from the first token; accepted: 0"
            )
        return self
