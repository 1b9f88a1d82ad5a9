"""What `check_behaviour` is told, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision

Group = Literal["refusals", "format", "copying", "arithmetic", "brackets", "position"]


class VerbatimConfig(StageConfig):
    """With the input `training`: whether a model writes its training text word for word. https://arxiv.org/abs/2202.07646"""

    num_rows: int = Field(default=32, ge=1)
    """Rows of each training set that are tried, at most."""

    num_prefix_tokens: int = Field(default=16, ge=1)
    """Tokens of the training text that the model is given."""

    num_match_tokens: int = Field(default=24, ge=4)
    """Tokens that it must then write exactly, to count as verbatim."""


class BehaviourConfig(StageConfig):
    """Which behaviours are checked, and how much of each."""

    groups: tuple[Group, ...] = ("refusals", "format", "copying", "arithmetic", "brackets", "position")
    """Groups of cases that come with Attar; none: those of the input `cases` alone."""

    max_cases: int = Field(default=0, ge=0)
    """Cases of each group; 0: all."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Longest answer in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Prompts in one forward pass."""

    verbatim: VerbatimConfig = VerbatimConfig()
    """With the input `training`: how training text is looked for in what the models write."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided error of the interval's ends."""

    precision: Precision = "auto"
    """Dtype of both models; ONNX graphs bring their own."""


@dataclass(frozen=True, kw_only=True)
class BehaviourInputs:
    """A student and its original. `cases`: questions of one's own with a verifier, a group a data set; `training`: what the student learned."""

    model: ModelArtifact | OnnxArtifact
    original: ModelArtifact
    cases: tuple[DatasetArtifact, ...] = ()
    training: tuple[DatasetArtifact, ...] = ()
