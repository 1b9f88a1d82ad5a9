"""What the stage `merge` is told: the method, what is written, the search of its parameters, and its inputs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import build, did_you_mean
from attar.compressors.merge.group import MergeMethod
from attar.compressors.merge.methods import MERGE_METHODS
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact, Trainable
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision

MAX_TRIALS = 256


class SearchConfig(StageConfig):
    """Which parameters of the method are tried, and how a merged model is judged on the input `dev`."""

    grid: dict[str, list[Any]]
    """Values to try by parameter, such as {t: [0.25, 0.5, 0.75]}; every combination is a trial, at most 256."""

    measure: Literal["loss", "accuracy"] = "loss"
    """loss: mean nats a token of the reference answers, lower is better. accuracy: share of checkable rows answered right."""

    max_rows: int = Field(default=64, ge=1)
    """Rows of each input of `dev`, from its training part, which no evaluation reads where a part is held out."""

    max_tokens: int = Field(default=512, ge=8)
    """Answers are cut at this many tokens when their loss is measured."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest written answer, in tokens, when accuracy is measured."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""

    precision: Precision = "auto"
    """Dtype in which a trial's model is measured."""

    @field_validator("grid")
    @classmethod
    def _is_a_grid(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        empty = [name for name, values in value.items() if not values]
        if empty or not value:
            raise ValueError(f"{empty[0] if empty else 'grid'} has no value to try; accepted: at least one")
        num_trials = math.prod(map(len, value.values()))
        if num_trials > MAX_TRIALS:
            raise ValueError(f"{num_trials} combinations; accepted: at most {MAX_TRIALS}")
        return value

    def trials(self) -> list[dict[str, Any]]:
        """Return every combination, the last parameter changing fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


class MergeConfig(StageConfig):
    """How the students become one model."""

    method: str = "fold"
    """fold: one adapter into the base. linear, slerp, task_arithmetic, ties, dare_linear, dare_ties, model_stock, karcher: several students."""

    params: dict[str, Any] = {}
    """Parameters of the method, such as t of slerp, weights and density of ties; a number, anchors along the blocks, or rules by name."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the result; auto: the base's (without one, the first student's). Sums are float32 in any case."""

    max_shard_bytes: int = Field(default=5_000_000_000, ge=1)
    """Largest safetensors file; a bigger model gets several, and an interrupted merge goes on behind the last whole one."""

    guidance_scale: float | None = None
    """Scale at which an offset guidance adapter is folded; for that alone."""

    search: SearchConfig | None = None
    """Try parameters and keep those whose merged model is best on the input `dev`; without it `params` says all."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in ("fold", *MERGE_METHODS):
            raise ValueError(f"unknown method {value!r}.{did_you_mean(value, ['fold', *MERGE_METHODS])}")
        return value

    @model_validator(mode="after")
    def _known_params(self) -> MergeConfig:
        if self.method == "fold":
            if self.params:
                raise ValueError(f"method 'fold' has no parameters; got {', '.join(self.params)}")
            if self.search:
                raise ValueError("method 'fold' has no parameters: there is nothing to search")
            return self
        both = sorted(set(self.params) & set(self.search.grid)) if self.search else []
        if both:
            raise ValueError(f"{both[0]} is in params and in search.grid; accepted: in one of them")
        for params in self.trials():
            self.build(params)
        return self

    def trials(self) -> list[dict[str, Any]]:
        """Return the parameters of every merge to be made: without a search, one."""
        return [self.params | trial for trial in self.search.trials()] if self.search else [self.params]

    def build(self, params: dict[str, Any]) -> MergeMethod:
        """Return the method with its parameters. Raises ValueError for one it does not have, or out of range."""
        return build(MERGE_METHODS, self.method, params)


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """The common base, and the students: adapters trained on it, or models of its shape; and rows to search by.

    Methods that read no base merge whole models without one.
    """

    base: Trainable | None = None
    students: tuple[AdapterArtifact | ModelArtifact, ...]
    dev: tuple[DatasetArtifact, ...] = ()
