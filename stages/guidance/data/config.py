"""How continuations under guidance are drawn: the config of `guide_data`, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from attar.compressors.guidance.branches import BRANCHES, Branch
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision
from attar.stages.runtime.method_field import MethodField
from attar.stages.runtime.older_fields import NOTHING, Moved, named_kind, within


def _given(text: str) -> Any:
    return text or NOTHING


UNGUIDED = MethodField(BRANCHES, "unguided", "no_prompt")


class ScalesConfig(StageConfig):
    """Which guidance scales are drawn."""

    min: float = Field(default=1.0, ge=0.0)
    """Smallest guidance scale drawn; 1 is no guidance, 0 the unguided branch."""

    max: float = Field(default=3.0, gt=0.0)
    """Largest guidance scale drawn; equal to min for adapters at one fixed scale."""

    unseen: float = Field(default=0.0, ge=0.0)
    """A scale that no training row comes near and every held-out question is answered at too, to prove that scales are learned; 0: none."""

    margin: float = Field(default=0.15, gt=0.0)
    """Training rows stay this far away from unseen."""

    @model_validator(mode="after")
    def _in_order(self) -> ScalesConfig:
        if self.min > self.max:
            raise ValueError(f"scales.min {self.min:g} is above scales.max {self.max:g}")
        if self.min == self.max == 1.0:
            raise ValueError(
                "scales.min and scales.max are 1, which is no guidance: nothing to learn; accepted: a range beyond 1"
            )
        if self.unseen:
            low, high = self.unseen - self.margin, self.unseen + self.margin
            if not self.min < low < high < self.max:
                raise ValueError(
                    f"scales.unseen {self.unseen:g} with its margin {self.margin:g} must lie "
                    f"between scales.min {self.min:g} and scales.max {self.max:g}"
                )
        return self

    def at(self, uniform: float) -> float:
        """Return the scale of a uniform number in [0, 1): spread evenly over the range without the unseen part."""
        if not self.unseen:
            return self.min + uniform * (self.max - self.min)
        low, high = self.unseen - self.margin, self.unseen + self.margin
        scale = self.min + uniform * (self.max - self.min - (high - low))
        return scale if scale < low else scale + (high - low)


class DrawingConfig(StageConfig):
    """How continuations are drawn."""

    num_samples: int = Field(default=1, ge=1)
    """Continuations of each training question, each under a scale of its own."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest continuation in tokens."""

    temperature: float = Field(default=1.0, gt=0.0)
    """Of the guided distribution that is drawn from; what is recorded is always at temperature 1."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""


class GuideDataConfig(StageConfig):
    """What the unguided branch sees, which scales are drawn, and how continuations are written and recorded."""

    unguided: Annotated[Branch, UNGUIDED] = BRANCHES["no_prompt"]()
    """The branch that guidance moves away from: {kind: no_prompt}, {kind: no_context, context: TEXT} or with context_end, the text inside a
    question up to which all is context; {kind: negative_prompt, prompt: TEXT}; {kind: weak_model}, the input `weak`."""

    scales: ScalesConfig = ScalesConfig()
    """Which guidance scales are drawn."""

    drawing: DrawingConfig = DrawingConfig()
    """How continuations are drawn."""

    num_recorded: int = Field(default=64, ge=1)
    """How many candidates of the guided distribution are kept for each token, with log-probabilities."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many questions of the data set, in its order; 0: all."""

    batch_size: int = Field(default=32, ge=1)
    """Continuations decoded together."""

    rows_per_shard: int = Field(default=256, ge=1)
    """Continuations written to disk together: what a crash costs."""

    seed: int = 0
    """Seed of the scales and of sampling; each row has a generator of its own, so a resumed run or another batch size draws the same."""

    precision: Precision = "auto"
    """Dtype of both branches."""

    moved: ClassVar[Mapping[str, Moved]] = {
        "unguided": Moved("unguided", named_kind),
        "negative_prompt": Moved("unguided.prompt", _given),
        "context": Moved("unguided.context", _given),
        "context_end": Moved("unguided.context_end", _given),
        "min_scale": Moved("scales.min"),
        "max_scale": Moved("scales.max"),
        "unseen_scale": Moved("scales.unseen"),
        "unseen_margin": Moved("scales.margin"),
        "num_samples_per_prompt": Moved("drawing.num_samples"),
        **within("drawing", "max_new_tokens", "temperature", "top_p"),
    }

    @model_validator(mode="after")
    def _has_texts(self) -> GuideDataConfig:
        if self.branch_kind == "no_context" and self.unguided == BRANCHES["no_context"]():
            raise ValueError("unguided.kind is 'no_context': give context or context_end")
        return self

    @property
    def branch_kind(self) -> str:
        """The name of the unguided branch."""
        return UNGUIDED.kind(self.unguided)
