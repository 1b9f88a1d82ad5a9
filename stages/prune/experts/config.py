"""What the stage `prune_experts` is told: how many experts stay, by which method; and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from attar.compressors.catalogue import build
from attar.compressors.models.experts import Routing
from attar.compressors.prune.experts.methods import EXPERT_METHODS
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.artifacts.model.expert_facts import is_dense, known_routing
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision


class CalibrationConfig(StageConfig):
    """The rows that scores and clusters read."""

    num_samples: int = Field(default=128, ge=1)
    """Rows of `data` that are run through the model, in equal shares of several data sets; fewer when there are fewer."""

    max_tokens: int = Field(default=512, ge=2)
    """Cut of each row, in tokens."""

    batch_size: int = Field(default=4, ge=1)
    """Rows in one pass."""

    precision: Precision = "auto"
    """Dtype of the pass; scores are summed in float64, and the model keeps its own dtype."""


class PruneExpertsConfig(StageConfig):
    """How many experts stay in each block, and by which method."""

    num_experts: int = Field(default=0, ge=0)
    """Experts that stay in each block, at least as many as a token goes to. 0: not given."""

    fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the experts that stays, in (0, 1), rounded to the nearest number of them, in each of the router's groups. 0: not given."""

    method: str = "reap"
    """What decides within a block: reap, frequency, router_weight, activation_norm; merge; magnitude and random, without data, as controls."""

    params: dict[str, Any] = {}
    """Parameters of the method; for random: seed, for merge: router."""

    calibration: CalibrationConfig = CalibrationConfig()
    """The rows that scores and clusters read."""

    @model_validator(mode="after")
    def _one_size_and_a_method(self) -> PruneExpertsConfig:
        if bool(self.num_experts) == bool(self.fraction):
            given = "both are" if self.num_experts else "neither is"
            raise ValueError(f"num_experts and fraction: {given} given; exactly one is accepted")
        try:
            build(EXPERT_METHODS, self.method, self.params)
        except ValueError as error:
            raise ValueError(f"method: {error}") from error
        return self

    @property
    def reads_data(self) -> bool:
        """Whether the method looks at calibration rows."""
        return EXPERT_METHODS[self.method].source != "weights"

    def num_kept(self, routing: Routing) -> int:
        """Return the experts that stay in each block. Raises ValueError, naming the field, when the router could not choose among them."""
        if self.num_experts:
            routing.check(self.num_experts, "num_experts")
            return self.num_experts
        size = routing.num_experts // routing.num_groups
        count = round(self.fraction * size) * routing.num_groups
        routing.check(count, f"fraction {self.fraction:g} of {routing.num_experts} experts")
        return count


@dataclass(frozen=True, kw_only=True)
class PruneExpertsInputs:
    """The model, and the rows that show what it is used for; magnitude and random read none."""

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...] = ()


def forecast_kept(config: PruneExpertsConfig, model: Facts) -> int:
    """Return the experts that will stay, 0 where the facts do not tell. Raises ValueError for what cannot be, dense models too."""
    routing = known_routing(model)
    if routing is None:
        if is_dense(model):
            raise ValueError("model: it has no experts; prune takes its blocks, narrow its channels")
        return 0
    return config.num_kept(routing)


def check_data(config: PruneExpertsConfig, *, has_data: bool) -> None:
    """Raise ValueError when the method reads rows and there are none, or the other way round."""
    if config.reads_data != has_data:
        why = f"method is {config.method!r}"
        raise ValueError(f"{why}: it needs the input `data`" if config.reads_data else f"{why}: it reads no `data`")
