"""What the CTranslate2 form is told: the type of its matrices, and what rounding may lose."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attar.registry.artifacts.handles import Artifact, CTranslate2Artifact
from attar.stages.contract import StageConfig


class CTranslate2Format(StageConfig):
    """A folder for CTranslate2, written by its own converter."""

    kind: Literal["ctranslate2"] = "ctranslate2"
    """A folder for CTranslate2, on CPUs and CUDA."""

    weights: Literal["float32", "int8"] = "float32"
    """Type of the matrices. int8: whole numbers with a scale a row; a product's inputs are rounded to 8 bits too, token by token."""

    max_kl_nats: float = Field(default=0.1, gt=0.0)
    """Most that rounding to int8 may cost: KL from the float model, nats a token, over the proof's prompts and answers."""

    makes: ClassVar[type[Artifact]] = CTranslate2Artifact
