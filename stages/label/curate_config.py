"""What the stage `curate` is told: which rows are left out, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision
from attar.stages.runtime.older_fields import Moved, within


class LengthConfig(StageConfig):
    """How long an answer, or text, is."""

    min_characters: int = Field(default=1, ge=0)
    """Shortest answer, or text, in characters."""

    max_characters: int = Field(default=0, ge=0)
    """Longest answer, or text, in characters; 0: no limit."""

    min_tokens: int = Field(default=0, ge=0)
    """Shortest answer, or text, in tokens. Needs the input `model`, or rows that a model wrote."""

    max_tokens: int = Field(default=0, ge=0)
    """Longest answer, or text, in tokens; 0: no limit. Needs what `min_tokens` needs."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> LengthConfig:
        for least, most in (("min_characters", "max_characters"), ("min_tokens", "max_tokens")):
            if 0 < getattr(self, most) < getattr(self, least):
                raise ValueError(f"{most} is {getattr(self, most)}, but {least} is {getattr(self, least)}")
        return self


class DuplicatesConfig(StageConfig):
    """Which rows are the same."""

    threshold: float = Field(default=0.8, ge=0.0, le=1.0)
    """Jaccard similarity, in (0, 1], from which two rows are the same; 1: only equal ones; 0: duplicates stay. Of two, the held-out one stays."""

    of: Literal["question", "answer", "both"] = "both"
    """What is compared: rows with equal questions and different answers are duplicates by `question` alone."""

    shingle_words: int = Field(default=3, ge=1)
    """Length in words of the runs that similarity is counted in; shorter finds looser likenesses."""


class ContaminationConfig(StageConfig):
    """Which rows overlap the `tasks`."""

    ngram_words: int = Field(default=13, ge=1)
    """Length in words of a run that, shared with a question, answer or text of `tasks`, makes a row contaminated."""

    min_ngram_words: int = Field(default=8, ge=1)
    """A shorter task question is one run itself, down to this many words; below, only the same question overlaps."""

    max_ngram_rows: int = Field(default=10, ge=1)
    """A run that occurs in more rows than this is a phrase of the prompt's form, and no overlap."""

    rows: Literal["train", "all"] = "train"
    """Which rows may not overlap `tasks`. A held-out row is not learned from, but chooses the adapter that is kept."""

    @model_validator(mode="after")
    def _shorter_is_shorter(self) -> ContaminationConfig:
        if self.min_ngram_words > self.ngram_words:
            raise ValueError(
                f"min_ngram_words is {self.min_ngram_words}; accepted: at most ngram_words, {self.ngram_words}"
            )
        return self


class BudgetConfig(StageConfig):
    """How many of the training rows that are left are kept."""

    max_rows: int = Field(default=0, ge=0)
    """Keep at most this many training rows; 0: all. Held-out rows stay."""

    keep_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Keep at most this share of the training rows that are left, in (0, 1]."""

    by: Literal["farthest", "random"] = "farthest"
    """Which rows `max_rows` and `keep_fraction` keep: those farthest apart in words, or any, by a hash of their ids."""


class CurateConfig(StageConfig):
    """Which rows are left out. Filters run in the order of these fields; a row is counted under the first that drops it."""

    length: LengthConfig = LengthConfig()
    """How long an answer, or text, is."""

    min_distinct_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Least share of distinct runs of three words in an answer, in [0, 1]; one in a loop has few. 0: loops stay."""

    min_pass_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of the original's samples that passed, in [0, 1]; below it a question is too hard for the original."""

    max_pass_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Largest share of the original's samples that passed, in [0, 1]; above it a question teaches little."""

    duplicates: DuplicatesConfig = DuplicatesConfig()
    """Which rows are the same."""

    contamination: ContaminationConfig = ContaminationConfig()
    """Which rows overlap the `tasks`."""

    budget: BudgetConfig = BudgetConfig()
    """How many of the training rows that are left are kept."""

    num_scored_rows: int = Field(default=64, ge=0)
    """Rows whose loss under the original is measured for the data card, with `model` or from recorded log-probabilities; 0: none."""

    precision: Precision = "auto"
    """Dtype of the model while it scores."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **within("length", *LengthConfig.model_fields),
        "duplicate_threshold": Moved("duplicates.threshold"),
        "duplicates_of": Moved("duplicates.of"),
        **within("duplicates", "shingle_words"),
        **within("contamination", "ngram_words", "min_ngram_words", "max_ngram_rows"),
        "decontaminate": Moved("contamination.rows"),
        **within("budget", "max_rows", "keep_fraction"),
        "budget_by": Moved("budget.by"),
    }

    @model_validator(mode="after")
    def _rates_are_in_order(self) -> CurateConfig:
        if self.max_pass_rate < self.min_pass_rate:
            raise ValueError(f"max_pass_rate is {self.max_pass_rate}, but min_pass_rate is {self.min_pass_rate}")
        return self


@dataclass(frozen=True, kw_only=True)
class CurateInputs:
    """The rows, and the tasks and texts for evaluation that they may not hold. `original`: for lengths in tokens and losses."""

    data: DatasetArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    model: ModelArtifact | None = None
