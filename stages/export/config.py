"""What the stage `export` is told: the graph's operator set, the proof it owes, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, EncoderArtifact, ModelArtifact
from attar.stages.contract import StageConfig


class ExportConfig(StageConfig):
    """The graph's operator set, and how much proof it owes."""

    opset: int = Field(default=23, ge=20, le=23)
    """ONNX operator set; below 23 an RMS norm is several nodes. Attention is onnxruntime's own node in any."""

    num_prompts: int = Field(default=4, ge=1)
    """Questions of the data set on which torch and ONNX Runtime are compared; of an encoder its texts."""

    num_new_tokens: int = Field(default=64, ge=1)
    """Greedy tokens compared on each."""

    min_token_agreement: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of greedy tokens that must agree before the first difference, in [0, 1]; below it the stage fails."""

    max_logit_difference: float = Field(default=1e-2, gt=0.0)
    """Largest absolute difference of any logit; above it the stage fails. An encoder's vectors differ by 0.0001 at most."""


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """The model, the data set whose questions prove the graph, and guidance adapters, which stay: `guidance_scale` is an input then."""

    model: ModelArtifact | EncoderArtifact
    data: DatasetArtifact
    guidance: AdapterArtifact | None = None
