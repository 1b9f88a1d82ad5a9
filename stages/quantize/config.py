"""What the stage `quantize` is told: how many bits, how they are chosen, what may be lost; and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import build
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.registry.artifacts.handles import AnyData, AnyGraph, DatasetArtifact
from attar.stages.contract import StageConfig, default_kind
from attar.stages.quantize.limits import ClassLimits, Limits, VectorLimits
from attar.stages.runtime.older_fields import Moved, within

# Kinds whose weights share a scale over a whole output channel.
WHOLE_KINDS = ("dynamic", "static")


class WeightsConfig(StageConfig):
    """How weights become integers."""

    kind: Literal["weights", "dynamic", "static"] = "weights"
    """weights: integers in blocks with their scales. dynamic: by output channel in seven bits, which no processor's sums outgrow, activations
    quantized by tensor as they come. static, of image classifiers: so too, activations by ranges that training images gave."""

    bits: Literal[8, 4] = 8
    """Bits of a weight."""

    head_bits: Literal[8, 4] = 8
    """Bits of embedding and output head; where the two are tied, they stay one tensor."""

    block_size: Literal[16, 32, 64, 128] = 32
    """Input channels that share a scale; smaller where a matrix is not whole blocks."""

    symmetric: bool = False
    """true: no zero points, a little smaller and faster; false: each block's range is used whole."""


class MeasuredConfig(StageConfig):
    """What is calibrated and measured on."""

    num_samples: int = Field(default=32, ge=1)
    """Calibration texts, of the data's training rows."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest calibration text and held-out continuation, in tokens."""

    num_rank_tokens: int = Field(default=256, ge=2)
    """Calibration tokens on which products are measured alone: a forward pass over them a product."""

    max_rows: int = Field(default=64, ge=0)
    """Held-out rows, and windows of the text, on which the loss is measured; 0: all."""


class QuantizeConfig(StageConfig):
    """How many bits, how they are chosen, and what may be lost."""

    limits: Annotated[
        Limits | VectorLimits | ClassLimits,
        # for an editor: what it takes where no kind is given
        Field(discriminator="kind", json_schema_extra={"default": {"kind": "text"}}),
        default_kind("text"),
    ]
    """What the quantized model may lose on held-out text; past it the stage fails and names the costliest nodes. Of an encoder
    {kind: vectors, max_cosine_distance: 0.01}, of a classifier or tagger {kind: classes, max_kl_nats: 0.05, min_agreement: 0.98}."""

    weights: WeightsConfig = WeightsConfig()
    """How weights become integers."""

    method: str = "error_corrected"
    """How integers are chosen: nearest (the only one of kind dynamic), searched (range by squared error), error_corrected (GPTQ),
    ordered (GPTQ, the largest inputs first), refined (that, then scales and codes in turns)."""

    params: dict[str, Any] = {}
    """Parameters of the method; for error_corrected, ordered and refined: damping, for refined: num_sweeps."""

    smooth: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share of the inputs' unevenness over channels that moves into the weights, in [0, 1); 0: none."""

    exclude: list[str] = []
    """Ends of names of products that stay in float32, such as layers.0.mlp.down_proj."""

    twofold: list[str] = []
    """Ends of names of products whose inputs are rounded twice, to 16 bits in all, at one reading of the weights; for lm_head a quarter more time."""

    max_kept: int = Field(default=0, ge=0)
    """Most products that may stay in float32 (in 8 bits where `bits` is 4) because they cost most; 0: none, and none is measured alone."""

    target_kl_nats: float = Field(default=0.0, ge=0.0)
    """KL on calibration text at which no more products are kept, nats a token; 0: half of limits.max_kl_nats."""

    measured: MeasuredConfig = MeasuredConfig()
    """What is calibrated and measured on."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **within("weights", *WeightsConfig.model_fields),
        **within("measured", *MeasuredConfig.model_fields),
    }

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Let dynamic products round to the nearest: no other method has them."""
        weights = given.get("weights")
        is_whole = isinstance(weights, Mapping) and weights.get("kind") in WHOLE_KINDS
        return {"method": "nearest", **given} if is_whole else given

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        build(WEIGHT_METHODS, value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> QuantizeConfig:
        build(WEIGHT_METHODS, self.method, self.params)
        if self.weights.kind in WHOLE_KINDS and (self.weights.bits != 8 or self.method != "nearest"):
            raise ValueError(f"weights.kind is {self.weights.kind!r}: accepted: bits 8, method 'nearest'")
        return self


@dataclass(frozen=True, kw_only=True)
class QuantizeInputs:
    """The float graph, rows to calibrate on (training) and to measure on (held out), and plain text to measure on."""

    model: AnyGraph
    data: AnyData
    text: DatasetArtifact | None = None
