"""What a scan is asked to compute, and what it then holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import did_you_mean
from attar.compressors.prune.depth.calibration import CountedTokens
from attar.compressors.prune.depth.metrics import BLOCK_METRICS, GRADIENT_METRICS, PATCH_METRICS, REMOVAL_METRICS
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.model.placement import InMemory
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision
from attar.stages.runtime.older_fields import Moved, within
from attar.stages.scan.candidates import CandidatesConfig

# What one forward pass over the samples gives, and what costs next to nothing.
DEFAULT_METRICS = ["angular_distance", "block_influence", "magnitude", "reverse_order", "random"]


class CalibrationConfig(StageConfig):
    """What is run through the model, and which of its tokens count."""

    num_samples: int = Field(default=64, ge=1)
    """How many training rows are run through the model; fewer when the data set has fewer."""

    max_tokens: int = Field(default=256, ge=2)
    """Cut of each sample, in tokens."""

    tokens: CountedTokens = "all"
    """Which tokens count: all of them, the last of each sample (for losses: all), or those of the answer."""

    prepend_bos: bool = False
    """Put the tokenizer's beginning-of-sequence token before each sample that lacks it."""

    skip_first: bool = False
    """Leave the first token of each sample, an attention sink in many models, out of the cosines. patch_residual always has it."""

    num_loss_samples: int = Field(default=16, ge=1)
    """How many of those samples the metrics use that run the model often or backwards: taylor and the increases."""

    batch_size: int = Field(default=8, ge=1)
    """Samples in one forward pass."""

    precision: Precision = "auto"
    """Dtype of the forward pass; scores are always computed in float32."""


class GreedyConfig(StageConfig):
    """The order in which the increases remove blocks one after the other."""

    num_steps: int = Field(default=8, ge=0)
    """How many blocks the increases remove, one after the other, for a greedy order; 0: no order, only windows of `sizes`."""

    protect_first: int = Field(default=0, ge=0)
    """How many of the first blocks a greedy order leaves alone."""

    protect_last: int = Field(default=0, ge=0)
    """How many of the last blocks a greedy order leaves alone."""


class ScanConfig(StageConfig):
    """What is run through the model, which of its tokens count, and what is computed from them."""

    metrics: list[str] = DEFAULT_METRICS
    """Scores to compute. Beyond the default, dearer: patch_residual, taylor, taylor_elementwise, perplexity_increase, kl_increase."""

    sizes: list[int] = []
    """Window sizes, in blocks, of the metrics that score one size at a time: patch_residual, and the increases beside their greedy order."""

    patch_weight: Literal["none", "norm"] = "norm"
    """Of the patch that patch_residual judges, as in prune."""

    calibration: CalibrationConfig = CalibrationConfig()
    """What is run through the model, and which of its tokens count."""

    greedy: GreedyConfig = GreedyConfig()
    """The order in which the increases remove blocks one after the other."""

    candidates: CandidatesConfig = CandidatesConfig()
    """Which axes are measured for a solve (`prune.plan`), every candidate with its loss and its savings."""

    measure_latency: bool = False
    """Time each block while a token is decoded, for a latency budget. Times differ from run to run."""

    in_memory: InMemory = "auto"
    """model: the whole model; block: one decoder block at a time, from its file; auto: block where the model does not fit."""

    seed: int = 0
    """Of the metric random."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **within("calibration", *CalibrationConfig.model_fields),
        "num_greedy_steps": Moved("greedy.num_steps"),
        **within("greedy", "protect_first", "protect_last"),
    }

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in BLOCK_METRICS:
                raise ValueError(f"unknown metric {name!r}.{did_you_mean(name, BLOCK_METRICS)}")
        if not value or len(set(value)) < len(value):
            raise ValueError("at least one metric, each once, is accepted")
        return value

    @model_validator(mode="after")
    def _sizes_where_needed(self) -> ScanConfig:
        one_size_at_a_time = [name for name in self.metrics if name in PATCH_METRICS or name in REMOVAL_METRICS]
        if "patch_residual" in self.metrics and not self.sizes:
            raise ValueError("metric patch_residual scores one window size at a time: list `sizes`, in blocks")
        if self.sizes and not one_size_at_a_time:
            raise ValueError(
                f"sizes is {self.sizes}, but only patch_residual and the increases use it; add one of them"
            )
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"sizes is {self.sizes}; accepted: 1 and above")
        if one_size_at_a_time and not self.sizes and not self.greedy.num_steps:
            raise ValueError(
                f"metric {one_size_at_a_time[0]} has nothing to score: greedy.num_steps is 0, sizes is empty"
            )
        if self.in_memory == "block" and self.needs_whole_model:
            raise ValueError(
                "in_memory is 'block', but taylor, measure_latency and candidates need the whole model; accepted: 'model', or none of them"
            )
        return self

    @property
    def needs_whole_model(self) -> bool:
        """Whether a metric runs backwards, times are taken, or candidates cut: they need all of the model in memory."""
        return self.measure_latency or bool(GRADIENT_METRICS.keys() & set(self.metrics)) or bool(self.candidates.axes)


def scan_facts(config: ScanConfig) -> Facts:
    """Return what the scan will hold, so that a prune that needs more is refused before anything runs."""
    return {
        "metrics": tuple(config.metrics),
        "sizes": tuple(config.sizes),
        "num_greedy_steps": config.greedy.num_steps,
        "has_latency": config.measure_latency,
        "axes": tuple(config.candidates.axes),
    }
