"""What `prune` is told of a sub-network: the best under a budget, or its sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attar.stages.contract import StageConfig


class SubnetSizes(StageConfig):
    """The sizes of one sub-network; 0: the model's own."""

    blocks: int = Field(default=0, ge=0)
    """Blocks, evenly spread over the model's, the first and the last among them. 0: all."""

    width: int = Field(default=0, ge=0)
    """Numbers of a state: the first ones. 0: all."""

    heads: int = Field(default=0, ge=0)
    """Heads of a block, of width / heads numbers each. 0: all."""

    channels: int = Field(default=0, ge=0)
    """Feed-forward channels of a block: the first ones. 0: all."""

    @property
    def given(self) -> dict[str, int]:
        """The sizes that are not the model's own, by axis."""
        return {axis: size for axis, size in self if size}


class ElasticConfig(StageConfig):
    """A sub-network of a model that was trained as many (finetune, adapt.kind elastic). The best under a budget, or one of given sizes."""

    budget: dict[Literal["parameters", "ms"], float] = {}
    """Share of the whole's parameters, or of its milliseconds a pass, that the sub-network may have, each in (0, 1)."""

    subnet: SubnetSizes | None = None
    """Instead: its sizes, such as {blocks: 3, channels: 768}. Of any such model, trained so or not."""

    max_candidates: int = Field(default=64, ge=1)
    """Sub-networks that are compared: those of the most parameters within the budget. With ms: so many are timed, evenly over their sizes."""

    num_samples: int = Field(default=256, ge=2)
    """Texts or images of `data` that they are compared on."""

    max_tokens: int = Field(default=64, ge=2)
    """Cut of each text, in tokens."""

    @model_validator(mode="after")
    def _has_one_way(self) -> ElasticConfig:
        if bool(self.budget) == (self.subnet is not None):
            both = "both given" if self.budget else "neither given"
            raise ValueError(f"elastic.budget and elastic.subnet contradict: {both}, exactly one is accepted")
        for quantity, fraction in self.budget.items():
            if not 0.0 < fraction < 1.0:
                raise ValueError(f"elastic.budget.{quantity} is {fraction:g}; accepted: above 0 and below 1")
        return self
