"""What losses between vectors read. What student and teacher make of the same texts, vectors and states of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

# The kind of views that an encoder gives, and what it gives beside vectors: the states that are pooled, a token each.
EMBEDDINGS = "embeddings"
TOKEN_STATES = "token_states"


@dataclass(frozen=True)
class EmbeddingViews:
    """Vectors of the same N texts: the student's, and those of whoever is read beside it."""

    student: Float[Tensor, "N D"]
    teacher: Float[Tensor, "N E"] | None = None
    past: Float[Tensor, "N E"] | None = None
    anchor: Float[Tensor, "N E"] | None = None
    # states of the last block at the texts' M tokens, where a loss reads them
    student_tokens: Float[Tensor, "M D"] | None = None
    teacher_tokens: Float[Tensor, "M E"] | None = None
    # of pairs, each of whose texts has a row, one behind the other; with a reasoning each has a third, the question's explicit view
    similarities: Float[Tensor, "R"] | None = None
    # of R questions with a reasoning the states of their K latent tokens, then of as many steps; and which reasonings have steps
    steps: Float[Tensor, "2 R K D"] | None = None
    has_steps: Bool[Tensor, "R"] | None = None
    # queries, keys and values of the last block at the same tokens by name, where a loss reads them, and the text of each token
    student_projections: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_projections: Mapping[str, Tensor] = field(default_factory=dict)
    sequences: Int[Tensor, "M"] | None = None

    def of_teacher(self) -> Float[Tensor, "N E"]:
        """Return the teacher's vectors. Raises ValueError where there is none."""
        if self.teacher is None:
            raise ValueError("the objective reads 'teacher', but nothing stands behind it in this training")
        return self.teacher

    def side(self, index: int, name: str) -> Float[Tensor, "R D"]:
        """Return the student's vectors of one text of each row. 0 the first, 1 the second, 2 the first with its reasoning.

        Raises ValueError, in the name of the loss that reads them, for texts that are no pairs.
        """
        if self.similarities is None:
            raise ValueError(f"{name} reads pairs of texts, and these are single texts")
        return self.student[index :: len(self.student) // len(self.similarities)].float()


def refuse_temperature(temperature: float) -> None:
    """Raise ValueError unless a softmax can be taken at this temperature."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; accepted: above 0")
