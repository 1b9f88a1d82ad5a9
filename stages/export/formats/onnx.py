"""What the ONNX form is told: the graph's operator set, and of a denoiser the steps in it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attar.registry.artifacts.handles import Artifact, OnnxArtifact
from attar.stages.contract import StageConfig


class OnnxFormat(StageConfig):
    """A graph with a KV cache, in float32, for onnxruntime and what is built on it."""

    kind: Literal["onnx"] = "onnx"
    """A graph for onnxruntime, optimum, transformers.js and onnxruntime-genai."""

    opset: int = Field(default=23, ge=20, le=23)
    """ONNX operator set; below 23 an RMS norm is several nodes."""

    operators: Literal["fused", "standard"] = "fused"
    """fused: attention, rotary embedding, recurrences and experts are onnxruntime's own nodes, and the cache is written in place.
    standard: ONNX' own operators alone, for OpenVINO and any other runtime; no recurrences, no experts, and `quantize` refuses it."""

    takes_prefix: bool = False
    """The graph has one more input, `prefix`: vectors that ids behind the vocabulary name, such as those of stage `condense`. Of fused
    operators, without guidance; runtimes other than attar's own must be given it too."""

    num_steps: int = Field(default=1, ge=1, le=100)
    """Of a denoiser: steps of its sampler, all of them in the graph; a divisor of the scheduler's timesteps."""

    makes: ClassVar[type[Artifact]] = OnnxArtifact
