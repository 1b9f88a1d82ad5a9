"""What the ONNX form is told: the graph's operator set, and of a denoiser the steps in it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from attar.registry.artifacts.handles import Artifact, OnnxArtifact
from attar.stages.artifacts.encoder.exits import Exits
from attar.stages.contract import StageConfig


class EarlyExits(StageConfig):
    """Where a batch may end, and how sure of it an encoder must be."""

    exits: Annotated[Exits, Field(min_length=3)]
    """After how many blocks, three or more, such as [2, 4, 6]: nothing ends at the first, with which the second is compared; the last is the
    model's own."""

    min_agreement: float = Field(default=0.95, ge=-1.0, le=1.0)
    """Least cosine of each text's vectors at two exits in turn where a batch ends; the graph's input of that name is this unless set."""


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

    exit: int = Field(default=0, ge=0)
    """Of an encoder: after how many blocks its vector is taken, such as an exit that it learned; 0: after all."""

    early: EarlyExits | None = None
    """Of an encoder: let a batch end at an exit whose vectors say what those of the exit before said. null: all blocks, always."""

    num_steps: int = Field(default=1, ge=1, le=100)
    """Of a denoiser: steps of its sampler, all of them in the graph; a divisor of the scheduler's timesteps."""

    makes: ClassVar[type[Artifact]] = OnnxArtifact

    @model_validator(mode="after")
    def _ends_one_way(self) -> OnnxFormat:
        if self.exit and self.early is not None:
            raise ValueError(
                "exit and early contradict: a graph ends at one exit, or at the first that is sure; accepted: one of them"
            )
        return self
