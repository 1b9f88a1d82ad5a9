"""How questions are answered: the config of `answer`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision


class AnswerConfig(StageConfig):
    """How many answers are drawn, how, and which stay."""

    num_samples: int = Field(default=1, ge=1)
    """Answers to each question; each becomes a row."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer in tokens."""

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

    keep: Literal["all", "finished", "passing"] = "finished"
    """Which answers stay: all, those that ended by themselves, or those of them that pass their row's verifier."""

    anchor_nats_per_token: float = Field(default=0.15, ge=0.0)
    """With the input `anchor`: how far from it a text may go on average, as KL in nats a token; 0: the anchor itself writes."""

    num_debt_tokens: int = Field(default=5, ge=0)
    """With the input `anchor`: prompt tokens on which the model is most ahead of it, whose mean log-ratio is taken off the budget."""

    batch_size: int = Field(default=32, ge=1)
    """Texts decoded together."""

    rows_per_shard: int = Field(default=64, ge=1)
    """Questions written to disk together: what a crash costs."""

    seed: int = 0
    """Seed of sampling; each answer has a generator of its own, so a resumed run or another batch size draws the same."""

    precision: Precision = "auto"
    """Dtype of torch models while they write."""

    @model_validator(mode="after")
    def _samples_differ(self) -> AnswerConfig:
        if self.num_samples > 1 and self.temperature == 0.0:
            raise ValueError(
                f"num_samples is {self.num_samples}, but at temperature 0 all are the same; accepted: 1, or a temperature above 0"
            )
        return self
