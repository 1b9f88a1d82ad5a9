"""What the ONNX form is told. The graph's operators, the types of its numbers and of its cache, and of a denoiser the steps in it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from attar.registry.artifacts.handles import Artifact, OnnxArtifact
from attar.stages.artifacts.encoder.exits import Exits
from attar.stages.contract import StageConfig, default_kind


class EarlyExits(StageConfig):
    """Where a batch may end, and how sure of it an encoder must be."""

    exits: Annotated[Exits, Field(min_length=3)]
    """After how many blocks, three or more, such as [2, 4, 6]: nothing ends at the first, with which the second is compared; the last is the
    model's own."""

    min_agreement: float = Field(default=0.95, ge=-1.0, le=1.0)
    """Least cosine of each text's vectors at two exits in turn where a batch ends; the graph's input of that name is this unless set."""


class FloatCache(StageConfig):
    """Keys and values as they are computed."""

    kind: Literal["float"] = "float"
    """Keys and values in the graph's precision."""


class IntegerCache(StageConfig):
    """Keys and values in 8 bits, a scale for each channel of each head, from the data's training rows."""

    kind: Literal["int8"] = "int8"
    """Keys and values in 8 bits between tokens; of fused operators, and of models that keep nothing else."""

    num_samples: int = Field(default=16, ge=1)
    """Texts on which the largest keys and values are measured."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest of them, in tokens."""


class OnnxFormat(StageConfig):
    """A graph with a KV cache, for onnxruntime and what is built on it."""

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

    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of weights, products and the float cache. float16 is for GPUs and browsers, and runs on the CPU too, in float32 inside; bfloat16
    for GPUs alone. Softmax, norms' sums, recurrences, angles and the logits are float32 in all."""

    cache: Annotated[FloatCache | IntegerCache, Field(discriminator="kind"), default_kind("float")] = FloatCache()
    """How keys and values lie between tokens: float, or int8 at a quarter of float32's bytes."""

    max_kl_nats: float = Field(default=0.02, gt=0.0)
    """Most that 16 bits or an int8 cache may cost: KL from the float32 model, nats a token, over the proof's prompts and answers."""

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

    @model_validator(mode="after")
    def _has_these_numbers(self) -> OnnxFormat:
        if self.precision != "float32" and self.early is not None:
            raise ValueError(f"precision is {self.precision!r}, but early makes branches; accepted: float32")
        if self.is_rounded and self.takes_prefix:
            given = f"precision is {self.precision!r}" if self.precision != "float32" else "cache.kind is 'int8'"
            raise ValueError(f"{given}, but takes_prefix is true; accepted: precision float32 and cache float")
        if self.operators == "standard" and self.precision == "bfloat16":
            raise ValueError("precision is 'bfloat16', but operators is 'standard'; accepted: float32, float16")
        if self.operators == "standard" and self.cache.kind == "int8":
            raise ValueError(
                "cache.kind is 'int8', which onnxruntime's own attention alone has, but operators is 'standard'; accepted: float"
            )
        return self

    @property
    def is_rounded(self) -> bool:
        """Whether numbers of the graph have fewer bits than the model's."""
        return self.precision != "float32" or self.cache.kind != "float"
