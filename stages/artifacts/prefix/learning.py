"""What a training is told of vectors before the prompt. Learned for one set of demonstrations, or made of any by a compressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.contract import StageConfig


@dataclass(frozen=True, kw_only=True)
class BeforePrompt:
    """Vectors that stand before each prompt. `num_sets`: sets of demonstrations a data set; `text_fraction`: of plain text, what they stand for."""

    num_vectors: int
    num_sets: int
    text_fraction: float = 0.0


class PrefixVectors(StageConfig):
    """Vectors that stand before every prompt in place of the demonstrations that the teacher reads. The model stays as it is."""

    kind: Literal["prefix"]
    """The vectors themselves learn: of the first data set's demonstrations, and no others."""

    num_vectors: int = Field(default=16, ge=1, le=4096)
    """How many: what the prompt grows by, in tokens."""

    stands_before: ClassVar[bool] = True
    trains_base: ClassVar[bool] = False
    exits: ClassVar[tuple[int, ...]] = ()
    blocks: ClassVar[Literal["all"]] = "all"
    quantized_base: ClassVar[QuantizedBase] = "none"
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0


class DemonstrationCompressor(StageConfig):
    """The model's first blocks, copied, with learned queries, make vectors of demonstrations, seen or not. The model stays as it is."""

    kind: Literal["compressor"]
    """The compressor learns; stage `condense` makes vectors with it."""

    num_vectors: int = Field(default=16, ge=1, le=4096)
    """Vectors that it makes of a set of demonstrations, whatever their length: its queries."""

    num_blocks: int = Field(default=6, ge=1)
    """Blocks that it is made of, fewer than the model has."""

    num_sets: int = Field(default=8, ge=1)
    """Sets of demonstrations of each data set, shown in turn."""

    text_fraction: float = Field(default=0.8, gt=0.0, lt=1.0)
    """Of plain text, which comes first in the paper: the share of each piece that is compressed; the rest is learned behind it."""

    stands_before: ClassVar[bool] = True
    trains_base: ClassVar[bool] = False
    exits: ClassVar[tuple[int, ...]] = ()
    blocks: ClassVar[Literal["all"]] = "all"
    quantized_base: ClassVar[QuantizedBase] = "none"
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0
