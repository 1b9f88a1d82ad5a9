"""What the GGUF form is told: the types of its tensors, and what rounding may lose."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from attar.registry.artifacts.handles import Artifact, GgufArtifact
from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES
from attar.stages.contract import StageConfig

# Of tensors, as llama.cpp calls them. The first three are floats; K types are blocks of 256, the rest of 32, with their scale.
WeightType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0", "mxfp4", "q3_k", "q2_k"
]


class ImportanceConfig(StageConfig):
    """The text on which the importance of columns is measured, of the data's training rows."""

    num_samples: int = Field(default=64, ge=1)
    """Texts."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest text, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Texts in one pass."""


class GgufFormat(StageConfig):
    """One file with weights, tokenizer and chat template, for llama.cpp, Ollama, LM Studio and OpenVINO GenAI."""

    kind: Literal["gguf"] = "gguf"
    """One file for llama.cpp, Ollama and LM Studio, and a `Modelfile` beside it."""

    weights: WeightType = "q8_0"
    """Type of the matrices: floats, blocks of 32 (q8_0 to q4_0, mxfp4), or K types in blocks of 256, which need llama.cpp's library."""

    ends: WeightType | Literal["same"] = "same"
    """Type of the embedding and of the output head; same: that of the matrices."""

    max_fallback_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest share of the weights whose rows are not whole blocks and get a wider type; past it the stage refuses before it writes."""

    max_kl_nats: float = Field(default=math.inf, gt=0.0, allow_inf_nan=True)
    """Most that rounding may cost: KL from the float model to the written one, nats a token, over the proof's prompts and answers."""

    importance: ImportanceConfig | None = None
    """Rounding weighs a column by the power of what it reads (an importance matrix), with llama.cpp's library; none: all columns alike."""

    makes: ClassVar[type[Artifact]] = GgufArtifact

    @model_validator(mode="after")
    def _heeds(self) -> GgufFormat:
        if self.importance and not ELEMENT_TYPES[self.weights].heeds_importance:
            accepted = ", ".join(name for name, kind in ELEMENT_TYPES.items() if kind.heeds_importance)
            raise ValueError(f"importance changes nothing of weights {self.weights!r}; accepted: {accepted}")
        return self
