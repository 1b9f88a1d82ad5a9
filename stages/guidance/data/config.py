"""How continuations under guidance are drawn: the config of `guide_data`, and what it refuses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attar.compressors.catalogue import build
from attar.compressors.guidance.branches import BRANCHES, Branch
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision


class GuideDataConfig(StageConfig):
    """What the unguided branch sees, which scales are drawn, and how continuations are written and recorded."""

    unguided: Literal["no_prompt", "no_context", "negative_prompt", "weak_model"] = "no_prompt"
    """The branch that guidance moves away from: without the prompt, without its context, under another prompt, or the input `weak`."""

    negative_prompt: str = ""
    """What the unguided branch is asked instead; with unguided: negative_prompt alone."""

    context: str = ""
    """Text put before every question, which the unguided branch does not see; with unguided: no_context alone."""

    context_end: str = ""
    """Text inside a question up to which, itself included, all is context; with unguided: no_context alone."""

    min_scale: float = Field(default=1.0, ge=0.0)
    """Smallest guidance scale drawn; 1 is no guidance, 0 the unguided branch."""

    max_scale: float = Field(default=3.0, gt=0.0)
    """Largest guidance scale drawn; equal to min_scale for adapters at one fixed scale."""

    unseen_scale: float = Field(default=0.0, ge=0.0)
    """A scale that no training row comes near and every held-out question is answered at too, to prove that scales are learned; 0: none."""

    unseen_margin: float = Field(default=0.15, gt=0.0)
    """Training rows stay this far away from unseen_scale."""

    num_samples_per_prompt: int = Field(default=1, ge=1)
    """Continuations of each training question, each under a scale of its own."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest continuation in tokens."""

    temperature: float = Field(default=1.0, gt=0.0)
    """Of the guided distribution that is drawn from; what is recorded is always at temperature 1."""

    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

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

    @model_validator(mode="after")
    def _fits_together(self) -> GuideDataConfig:
        texts = {
            "negative_prompt": "negative_prompt",
            "context": "no_context",
            "context_end": "no_context",
        }
        for name, branch in texts.items():
            if getattr(self, name) and self.unguided != branch:
                raise ValueError(f"{name} is given, but unguided is {self.unguided!r}; accepted: unguided: {branch}")
        if self.unguided == "negative_prompt" and not self.negative_prompt:
            raise ValueError("unguided is 'negative_prompt': negative_prompt is missing")
        if self.unguided == "no_context" and not (self.context or self.context_end):
            raise ValueError("unguided is 'no_context': give context or context_end")
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale:g} is above max_scale {self.max_scale:g}")
        if self.min_scale == self.max_scale == 1.0:
            raise ValueError(
                "min_scale and max_scale are 1, which is no guidance: nothing to learn; accepted: a range beyond 1"
            )
        if self.unseen_scale:
            low, high = self.unseen_scale - self.unseen_margin, self.unseen_scale + self.unseen_margin
            if not self.min_scale < low < high < self.max_scale:
                raise ValueError(
                    f"unseen_scale {self.unseen_scale:g} with its margin {self.unseen_margin:g} must lie "
                    f"between min_scale {self.min_scale:g} and max_scale {self.max_scale:g}"
                )
        return self

    @property
    def branch(self) -> Branch:
        """The method that makes the prompts of both branches."""
        params = {
            "negative_prompt": {"prompt": self.negative_prompt},
            "no_context": {"context": self.context, "context_end": self.context_end},
        }
        return build(BRANCHES, self.unguided, params.get(self.unguided, {}))

    def scale_at(self, uniform: float) -> float:
        """Return the scale of a uniform number in [0, 1): spread evenly over the range without the unseen part."""
        if not self.unseen_scale:
            return self.min_scale + uniform * (self.max_scale - self.min_scale)
        low, high = self.unseen_scale - self.unseen_margin, self.unseen_scale + self.unseen_margin
        scale = self.min_scale + uniform * (self.max_scale - self.min_scale - (high - low))
        return scale if scale < low else scale + (high - low)
