"""What the stage `register` is told: the registered name, what a champion must show, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from attar.compressors.catalogue import did_you_mean
from attar.registry.artifacts.handles import EvaluationArtifact, GgufArtifact, ModelArtifact, OnnxArtifact
from attar.registry.release.gate import THRESHOLDS
from attar.stages.contract import StageConfig


class RegisterConfig(StageConfig):
    """The registered name, and what a champion must show."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)
    """Name in the registry: letters, digits, dot, dash, underscore."""

    gate: dict[str, float] = {}
    """Thresholds on candidate divided by baseline: min_accuracy_retention, max_perplexity_ratio, max_decode_latency_ratio,
    max_prefill_latency_ratio, max_size_ratio. What has a 95% interval must hold at its worse end. Empty: everything passes."""

    champion: Literal["past_gate", "by_decision"] = "past_gate"
    """past_gate: a version that passes the gate is champion at once; by_decision: it stays candidate until someone promotes it."""

    @field_validator("gate")
    @classmethod
    def _known_thresholds(cls, value: dict[str, float]) -> dict[str, float]:
        for name, limit in value.items():
            if name not in THRESHOLDS:
                raise ValueError(f"unknown threshold {name!r}.{did_you_mean(name, THRESHOLDS)}")
            if not limit > 0:
                raise ValueError(f"{name} is {limit}; accepted: above 0")
        return value


@dataclass(frozen=True, kw_only=True)
class RegisterInputs:
    """The model with its evaluation and the original's; its graphs and other forms, the evaluations of those gated."""

    model: ModelArtifact
    evaluation: EvaluationArtifact
    baseline: EvaluationArtifact
    onnx: tuple[OnnxArtifact, ...] = ()
    onnx_evaluation: tuple[EvaluationArtifact, ...] = ()
    # any number, of any kind that `export` and `quantize` make
    forms: tuple[OnnxArtifact | GgufArtifact | ModelArtifact, ...] = ()
