"""What the OpenVINO form is told: the type of its matrices, and what rounding may lose."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attar.registry.artifacts.handles import Artifact, OpenVinoArtifact
from attar.stages.contract import StageConfig


class OpenVinoFormat(StageConfig):
    """A folder with model, tokenizer and detokenizer in OpenVINO's own form, its cache inside, for OpenVINO GenAI and optimum-intel."""

    kind: Literal["openvino"] = "openvino"
    """A folder for OpenVINO GenAI and optimum-intel, on Intel's CPUs, GPUs and NPUs."""

    weights: Literal["f32", "f16", "int8"] = "f32"
    """Type of the matrices: floats of 32 or 16 bits, or whole numbers of 8 bits with a scale a row, embedding and head included."""

    max_kl_nats: float = Field(default=0.1, gt=0.0)
    """Most that rounding to f16 or int8 may cost: KL from the float model, nats a token, over the proof's prompts and answers."""

    makes: ClassVar[type[Artifact]] = OpenVinoArtifact
