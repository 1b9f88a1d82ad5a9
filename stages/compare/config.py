"""What `compare` is told, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision


class CompareConfig(StageConfig):
    """How much is compared."""

    max_rows: int = Field(default=0, ge=0)
    """Rows of each task; 0: all it has."""

    max_tokens: int = Field(default=512, ge=8)
    """Window of plain text, and the longest answer scored, in tokens."""

    max_text_tokens: int = Field(default=0, ge=0)
    """Tokens of each text; 0: all."""

    num_own_answers: int = Field(default=0, ge=0)
    """Questions that the original answers greedily, its answers then scored under both; 0: none."""

    max_new_tokens: int = Field(default=160, ge=1)
    """Longest of those answers in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Texts in one forward pass."""

    names: tuple[str, ...] = ()
    """Of several models, in the order of the input `model`: what their results and facts go by. One model needs none."""

    against: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By those names, a model: the others it is set against. The differences of its measures to theirs are measured in pairs of texts."""

    models_at_once: int = Field(default=0, ge=0)
    """Students in memory beside the original; 0: all. The original reads everything once for each so many; the results are the same."""

    precision: Precision = "auto"
    """Dtype of all models."""

    def groups(self, num_students: int) -> list[range]:
        """Return which students are in memory together."""
        size = self.models_at_once or num_students
        return [range(start, min(start + size, num_students)) for start in range(0, num_students, size)]


@dataclass(frozen=True, kw_only=True)
class CompareInputs:
    """Students of one original, questions with reference answers, and plain text. Held-out rows are used where there are any."""

    model: tuple[ModelArtifact, ...]
    original: ModelArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    texts: tuple[DatasetArtifact, ...] = ()
