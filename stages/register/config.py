"""What the stage `register` is told: the registered name, what a champion must show, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from attar.compressors.catalogue import did_you_mean
from attar.registry.artifacts.handles import (
    EncoderArtifact,
    EncoderGraphArtifact,
    EvaluationArtifact,
    ModelArtifact,
    OnnxArtifact,
)
from attar.registry.release.gate import ENCODER_METRICS, THRESHOLDS
from attar.stages.contract import StageConfig

# Thresholds on what every model has, and those of an encoder.
SHARED_THRESHOLDS = {"max_size_ratio"}
ENCODER_THRESHOLDS = SHARED_THRESHOLDS | {name for name, (metric, _) in THRESHOLDS.items() if metric in ENCODER_METRICS}


class RegisterConfig(StageConfig):
    """The registered name, and what a champion must show."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)
    """Name in the registry: letters, digits, dot, dash, underscore."""

    gate: dict[str, float] = {}
    """Thresholds on candidate divided by baseline: min_accuracy_retention, max_perplexity_ratio, max_decode_latency_ratio,
    max_prefill_latency_ratio, max_size_ratio; of an encoder min_spearman_retention, min_mrr_retention, max_embed_latency_ratio,
    max_batch_latency_ratio, max_size_ratio. What has a 95% interval must hold at its worse end. Empty: everything passes."""

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
    """The model with its evaluation and the original's; its graphs, and the evaluations of those that are gated."""

    model: ModelArtifact | EncoderArtifact
    evaluation: EvaluationArtifact
    baseline: EvaluationArtifact
    onnx: tuple[OnnxArtifact | EncoderGraphArtifact, ...] = ()
    onnx_evaluation: tuple[EvaluationArtifact, ...] = ()


def check_gate(gate: Mapping[str, float], *, is_encoder: bool) -> None:
    """Raise ValueError for a threshold on what the other kind of model is measured by."""
    own = ENCODER_THRESHOLDS if is_encoder else set(THRESHOLDS) - ENCODER_THRESHOLDS | SHARED_THRESHOLDS
    if other := [name for name in gate if name not in own]:
        kind = "an encoder" if is_encoder else "a causal language model"
        raise ValueError(f"gate.{other[0]} is not measured of {kind}; accepted: {', '.join(sorted(own))}")
