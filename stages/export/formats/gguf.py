"""What the GGUF form is told: the types of its tensors, and what rounding may lose."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from attar.registry.artifacts.handles import Artifact, GgufArtifact
from attar.stages.contract import StageConfig

# Of tensors, as llama.cpp calls them. The first three are floats; the rest are blocks of 32 with their scale.
WeightType = Literal["f32", "f16", "bf16", "q8_0", "q5_0", "q4_1", "q4_0", "mxfp4"]


class GgufFormat(StageConfig):
    """One file with weights, tokenizer and chat template, for llama.cpp, Ollama, LM Studio and OpenVINO GenAI."""

    kind: Literal["gguf"] = "gguf"
    """One file for llama.cpp, Ollama and LM Studio, and a `Modelfile` beside it."""

    weights: WeightType = "q8_0"
    """Type of the matrices. f32, f16, bf16: floats. q8_0, q5_0, q4_1, q4_0, mxfp4: 8.5, 5.5, 5, 4.5, 4.25 bits a weight in blocks of 32."""

    ends: WeightType | Literal["same"] = "same"
    """Type of the embedding and of the output head; same: that of the matrices."""

    max_fallback_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest share of the weights whose rows are not whole blocks and stay in f16; past it the stage refuses before it writes."""

    max_kl_nats: float = Field(default=math.inf, gt=0.0, allow_inf_nan=True)
    """Most that rounding may cost: KL from the float model to the written one, nats a token, over the proof's prompts and answers."""

    makes: ClassVar[type[Artifact]] = GgufArtifact
