"""What the stage `guide` is told: the adapter, how it is trained, what it must reach, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import build
from attar.compressors.guidance.catalogue import GUIDANCE_ADAPTERS, AdapterMethod
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.contract import StageConfig
from attar.stages.finetune.adapt_config import LowRank
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.runtime.older_fields import renewed

# What guidance learns from, where `training` does not say: the guided distribution itself, row by row.
TRAINING_DEFAULTS: dict[str, Any] = {"objectives": {"forward_kl": 1.0}, "compute": {"is_packed": False}}
# Settings of finetune that have no meaning here, or only one: the teacher is what guide_data recorded.
FIXED = ("teacher", "past", "anchor", "rollout", "adapt.blocks", "rows.learn", "rows.shares", "heldout.stop_on")
FIXED += ("compute.is_packed", "compute.num_shards")


class GuideConfig(StageConfig):
    """The adapter, its training, and the gate."""

    adapter: Literal["cross", "offset", "lora"] = "cross"
    """cross reads the hidden state; offset is a vector and folds into biases at a fixed scale; lora is for one fixed scale and folds."""

    rank: int = Field(default=64, ge=2)
    """Width inside a cross or offset adapter."""

    num_tokens: int = Field(default=32, ge=2)
    """Tokens that a cross adapter attends to."""

    num_heads: int = Field(default=4, ge=1)
    """Heads of that attention; rank must be a multiple."""

    is_base_at_one: bool = True
    """Multiply the adapters' output by w - 1: at scale 1 the model is the base exactly. False: the paper's form, which can also heal."""

    training: FinetuneConfig = Field(default=FinetuneConfig(**TRAINING_DEFAULTS), validate_default=True)
    """Steps, batches, checkpoints and early stop, as in finetune; with adapter: lora also its `adapt`."""

    max_kl_ratio: float = Field(default=0.6, gt=0.0)
    """Gate: KL(one pass || two passes) / KL(plain || two passes) on held-out rows, for trained and unseen scales and the input `second`."""

    num_gate_rows: int = Field(default=32, ge=1)
    """Held-out rows that each ratio is measured on, at most."""

    @field_validator("training", mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        given, _ = renewed(FinetuneConfig, value)
        compute = given.get("compute", {})
        if not isinstance(compute, Mapping):
            return given
        return {**TRAINING_DEFAULTS, **given, "compute": {**TRAINING_DEFAULTS["compute"], **compute}}

    @model_validator(mode="after")
    def _fits_together(self) -> GuideConfig:
        fixed = FinetuneConfig(**TRAINING_DEFAULTS).model_dump()
        for path in FIXED:
            # what a stored config repeats is no choice
            if _at(self.training.model_dump(), path) != _at(fixed, path):
                raise ValueError(f"training.{path} cannot be chosen for guidance; leave it out")
        adapt = self.training.adapt
        if self.adapter == "lora":
            if adapt.trains_base or adapt.stands_before:
                raise ValueError(f"training.adapt.kind is {adapt.kind!r}; accepted: lora, rslora, dora")
            return self
        if adapt.model_copy(update={"quantized_base": "none"}) != LowRank():
            raise ValueError(f"training.adapt is for adapter: lora; a {self.adapter} adapter has no such setting")
        _ = self.adapter_method
        return self

    @property
    def adapter_method(self) -> AdapterMethod:
        """The method that builds the adapter of a block; not for lora."""
        params = {"rank": self.rank, "num_tokens": self.num_tokens, "num_heads": self.num_heads}
        return build(GUIDANCE_ADAPTERS, self.adapter, params if self.adapter == "cross" else {"rank": self.rank})


@dataclass(frozen=True, kw_only=True)
class GuideInputs:
    """The frozen base, and guided rows. The model whose two passes are the teacher where that is not the base (a pruned one).

    `weak`: the unguided branch, where the rows were drawn with one. `second`: a checkpoint that the adapters must also work on.
    """

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...]
    teacher: ModelArtifact | None = None
    weak: ModelArtifact | None = None
    second: ModelArtifact | None = None


def _at(content: Any, path: str) -> Any:
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
