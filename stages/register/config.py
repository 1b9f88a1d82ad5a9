"""What the stage `register` is told: the registered name, what a champion must show, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from attar.compressors.catalogue import did_you_mean
from attar.registry.artifacts.handles import (
    AnyGraph,
    BehaviourArtifact,
    ComparisonArtifact,
    EvaluationArtifact,
    SamplerGraphArtifact,
    Trainable,
)
from attar.registry.release.gate import THRESHOLDS
from attar.registry.release.interval_gate import Multiplicity
from attar.stages.contract import StageConfig
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.register.forms import Form


class IntervalGate(StageConfig):
    """Checks that the bound of an interval must keep. Each is passed, failed, or too few questions tell."""

    checks: Annotated[tuple[GateCheck, ...], Field(min_length=1)]
    """What a champion must show; every measured form must show it, checks of `compare` and `check_behaviour` the model alone."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided error: how often a check that is passed (or failed) may be so wrongly."""

    multiplicity: Multiplicity = "holm"
    """holm: `level` holds for all lines of the gate together; each: for every line alone, which bounds wrong promotions, and not wrong lines."""


def _form_of_gate(value: Any) -> str:
    """Return which form a gate is in: thresholds, or checks on intervals."""
    if isinstance(value, Mapping):
        return "interval_gate" if value.keys() & IntervalGate.model_fields.keys() else "thresholds"
    return "interval_gate" if isinstance(value, IntervalGate) else "thresholds"


Thresholds = dict[str, float]


class RegisterConfig(StageConfig):
    """The registered name, and what a champion must show."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)
    """Name in the registry: letters, digits, dot, dash, underscore."""

    gate: Annotated[
        Annotated[Thresholds, Tag("thresholds")] | Annotated[IntervalGate, Tag("interval_gate")],
        Discriminator(_form_of_gate),
    ] = {}
    """`checks` on intervals, or thresholds on candidate divided by baseline (min_accuracy_retention, max_perplexity_ratio,
    max_decode_latency_ratio, max_prefill_latency_ratio, max_size_ratio; of an encoder min_spearman_retention, min_mrr_retention,
    max_embed_latency_ratio, max_batch_latency_ratio, max_size_ratio; of a classifier the last three, min_accuracy_retention,
    min_macro_f1_retention; of a tagger min_span_f1_retention for the last; of an image classifier min_accuracy_retention,
    max_image_latency_ratio, max_image_batch_latency_ratio, max_size_ratio; of a denoiser max_frechet_ratio, min_recall_retention,
    max_forwards_ratio, max_image_latency_ratio, max_size_ratio) at the worse end of 95% intervals. Empty: everything passes."""

    champion: Literal["past_gate", "by_decision"] = "past_gate"
    """past_gate: a version that passes the gate is champion at once; by_decision: it stays candidate until someone promotes it."""

    @field_validator("gate")
    @classmethod
    def _known_thresholds(cls, value: Thresholds | IntervalGate) -> Thresholds | IntervalGate:
        for name, limit in value.items() if isinstance(value, dict) else ():
            if name not in THRESHOLDS:
                raise ValueError(f"unknown threshold {name!r}.{did_you_mean(name, [*THRESHOLDS, 'checks'])}")
            if not limit > 0:
                raise ValueError(f"{name} is {limit}; accepted: above 0")
        return value

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds, where the gate has any."""
        return self.gate if isinstance(self.gate, dict) else {}

    @property
    def interval_gate(self) -> IntervalGate | None:
        """The checks on intervals, where the gate has any."""
        return None if isinstance(self.gate, dict) else self.gate


@dataclass(frozen=True, kw_only=True)
class RegisterInputs:
    """The model with its evaluation and the original's; its graphs and other forms, the evaluations of those gated.

    `comparison` and `behaviour`: of the model with its original, for a gate on what `compare` and `check_behaviour` measure.
    """

    model: Trainable
    evaluation: EvaluationArtifact
    baseline: EvaluationArtifact
    onnx: tuple[AnyGraph | SamplerGraphArtifact, ...] = ()
    onnx_evaluation: tuple[EvaluationArtifact, ...] = ()
    # any number, of any kind that `export` and `quantize` make
    forms: tuple[Form, ...] = ()
    comparison: ComparisonArtifact | None = None
    behaviour: BehaviourArtifact | None = None
