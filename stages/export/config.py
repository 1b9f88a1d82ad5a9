"""What the stage `export` is told: the form that is written, the proof that it owes, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from attar.registry.artifacts.handles import AdapterArtifact, AnyData, DatasetArtifact, Trainable
from attar.stages.contract import StageConfig, default_kind
from attar.stages.export.formats.compressed_tensors import CompressedTensorsFormat
from attar.stages.export.formats.ctranslate2 import CTranslate2Format
from attar.stages.export.formats.gguf import GgufFormat
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.formats.openvino import OpenVinoFormat
from attar.stages.runtime.older_fields import Moved

# To add a format: its config in `formats`, a member here, a room, a row in `rooms.py`.
Format = Annotated[
    OnnxFormat | GgufFormat | CompressedTensorsFormat | OpenVinoFormat | CTranslate2Format,
    Field(discriminator="kind"),
    default_kind("onnx"),
]


class ExportConfig(StageConfig):
    """The form that is written, and how much proof it owes."""

    format: Format = OnnxFormat()
    """What is written: onnx, gguf, compressed_tensors, openvino, ctranslate2."""

    num_prompts: int = Field(default=4, ge=1)
    """Questions of the data set on which torch and the written form are compared; of an encoder its texts, of an image classifier its images,
    of a denoiser images of noise."""

    num_new_tokens: int = Field(default=64, ge=1)
    """Greedy tokens compared on each."""

    min_token_agreement: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of greedy tokens that must agree before the first difference, in [0, 1]; below it the stage fails."""

    max_tie_logits: float = Field(default=0.25, ge=0.0)
    """Where llama.cpp or OpenVINO GenAI write another token: most that torch's logit of it may lie below its own token's for the two to agree.
    Their sums are rounded (half precision, 8 bits of what is read), so that near ties fall either way."""

    max_logit_difference: float = Field(default=1e-2, gt=0.0)
    """Largest absolute difference of any logit from torch with the weights as they are written; above it the stage fails.

    An encoder's vectors differ by 0.0001 at most."""

    moved: ClassVar[Mapping[str, Moved]] = {"opset": Moved("format.opset", kinds=("onnx",))}


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """The model, the data set whose questions prove what is written, guidance adapters, and plain text to measure on.

    Guidance adapters stay: `guidance_scale` is an input of the graph then. Of the formats onnx alone has it.
    """

    model: Trainable
    data: AnyData
    guidance: AdapterArtifact | None = None
    text: DatasetArtifact | None = None
