"""What the compressed-tensors form is told: the scheme, how codes are chosen, what may be lost or stay in float."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.catalogue import build
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.registry.artifacts.handles import Artifact, ModelArtifact
from attar.stages.contract import StageConfig
from attar.stages.export.formats.schemes import SCHEMES, SchemeName
from attar.stages.quantize.limits import Limits


class CalibrationConfig(StageConfig):
    """What codes are chosen on, and what the loss is measured on."""

    num_samples: int = Field(default=64, ge=1)
    """Calibration texts, of the data's training rows."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest calibration text and held-out continuation, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Calibration texts in one pass."""

    max_rows: int = Field(default=64, ge=0)
    """Held-out rows, and windows of the text, on which the loss is measured; 0: all."""


class CompressedTensorsFormat(StageConfig):
    """A Hugging Face folder whose blocks' matrices are packed in 8 or 4 bits, for vLLM, SGLang and transformers."""

    kind: Literal["compressed_tensors"] = "compressed_tensors"
    """A folder in 8 or 4 bits for vLLM, SGLang and transformers."""

    limits: Limits
    """What the packed model may lose on held-out text; past it the stage fails and names the matrices that lost most."""

    scheme: SchemeName = "W4A16"
    """Bits of weights (W) and inputs (A): W4A16 in groups, W8A16 and W8A8 by row, FP8 by row; W8A8 and FP8 round each token's inputs."""

    group_size: Literal[32, 64, 128] | None = None
    """Input channels that share a scale, of W4A16; none: the largest of 128, 64 and 32 that divides every width."""

    method: str | None = None
    """How integers are chosen: nearest, searched, error_corrected, ordered, refined (these are GPTQ); none: refined for 4 bits, searched for 8."""

    params: dict[str, Any] = {}
    """Parameters of the method; for error_corrected, ordered and refined: damping, for refined: num_sweeps."""

    drift: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share that a matrix makes up for of what the rounded blocks before it did to its inputs, in [0, 1]; 0: none. Of the GPTQ methods."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Dtype of scales and of what is not packed: embedding, head, norms, biases."""

    exclude: list[str] = []
    """Ends of names of matrices that stay in float, such as layers.0.mlp.down_proj."""

    max_float_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """Most of the blocks' weights that may stay in float because no group divides their width, as a share; past it: refused."""

    calibration: CalibrationConfig = CalibrationConfig()
    """What codes are chosen and the loss is measured on."""

    makes: ClassVar[type[Artifact]] = ModelArtifact

    @property
    def weight_method(self) -> str:
        """Name of the method that chooses the codes."""
        return self.method or ("refined" if SCHEMES[self.scheme].is_grouped else "searched")

    @model_validator(mode="after")
    def _fits(self) -> CompressedTensorsFormat:
        scheme = SCHEMES[self.scheme]
        if self.group_size is not None and not scheme.is_grouped:
            raise ValueError(
                f"group_size is {self.group_size}, but {self.scheme} has a scale a row; accepted: W4A16 alone"
            )
        if scheme.is_float and (self.method or self.params):
            raise ValueError(
                f"method is {self.method!r}, but {self.scheme} takes the nearest float8; accepted: none, and no params"
            )
        method = build(WEIGHT_METHODS, self.weight_method, self.params)
        if self.drift and (scheme.is_float or method.needs != "moments"):
            raise ValueError(
                f"drift is {self.drift:g}, but {self.weight_method} fits nothing; accepted: error_corrected, ordered, refined"
            )
        return self
