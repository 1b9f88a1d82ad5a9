"""Losses between hidden states instead of distributions: a live teacher's last states, or how its tokens relate to each other.

They are no nats, but of the states' own scale. N tokens, D the width; `sequences` says which tokens may be related.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

# What a block's attention projects its input to, by the projection's name.
QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
States = Mapping[str, Tensor]


class HiddenLoss(Protocol):
    """Maps states of student and teacher, by name, to a loss per token. `reads`: projections of the last block, beside "hidden"."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    def __call__(self, student: States, teacher: States, sequences: Int[Tensor, "N"]) -> Float[Tensor, "N"]: ...


@dataclass(frozen=True, kw_only=True)
class HiddenMSE:
    """mean over D of (h_S - h_T)^2 of the last hidden states, which must be equally wide. https://arxiv.org/abs/1910.01108"""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, student: States, teacher: States, sequences: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        check_width(student["hidden"], teacher["hidden"])
        return (student["hidden"].float() - teacher["hidden"].float()).square().mean(dim=-1)


@dataclass(frozen=True, kw_only=True)
class HiddenCosine:
    """1 - cos(h_S, h_T) of the last hidden states, in [0, 2]: the direction alone. https://arxiv.org/abs/1910.01108"""

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, student: States, teacher: States, sequences: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        check_width(student["hidden"], teacher["hidden"])
        return 1.0 - torch.nn.functional.cosine_similarity(
            student["hidden"].float(), teacher["hidden"].float(), dim=-1, eps=1e-6
        )


@dataclass(frozen=True, kw_only=True)
class AttentionRelation:
    """How far X X^T / sqrt(d) over a sequence's tokens is from the teacher's. X: queries, keys and values of the last block.

    squared: mean square difference. kl: of each row's softmax, teacher to student, in nats. Summed over the three, mean over the parts.

    Each X is cut into `num_relation_heads` parts of width d, whatever the models' own heads, so that widths and head counts may differ.
    A rotation of X changes nothing. Queries and keys are taken before positions are put in. https://arxiv.org/abs/2012.15828
    """

    num_relation_heads: int = 1
    by: Literal["squared", "kl"] = "squared"

    def __post_init__(self) -> None:
        if self.num_relation_heads < 1:
            raise ValueError(f"num_relation_heads is {self.num_relation_heads}; accepted: 1 or more")
        if self.by not in ("squared", "kl"):
            raise ValueError(f"by is {self.by!r}; accepted: squared, kl")

    @property
    def reads(self) -> tuple[str, ...]:
        return QUERY_KEY_VALUE

    def __call__(self, student: States, teacher: States, sequences: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        total = torch.zeros(len(sequences), device=sequences.device)
        order, counts = sequences.argsort(stable=True), torch.bincount(sequences).tolist()
        for positions in order.split(counts):
            for name in QUERY_KEY_VALUE:
                apart = self._apart(*(self.relation(side[name][positions]) for side in (student, teacher)))
                total = total.index_add(0, positions, apart)
        return total

    def _apart(self, student: Float[Tensor, "H T T"], teacher: Float[Tensor, "H T T"]) -> Float[Tensor, "T"]:
        if self.by == "squared":
            return (student - teacher).square().mean(dim=(0, 2))
        target = teacher.log_softmax(dim=-1)
        return (target.exp() * (target - student.log_softmax(dim=-1))).sum(dim=-1).mean(dim=0)

    def relation(self, states: Float[Tensor, "T D"]) -> Float[Tensor, "H T T"]:
        """Return X X^T / sqrt(d) of each part. Raises ValueError for a width that the parts do not divide."""
        width = states.shape[-1]
        if width % self.num_relation_heads:
            raise ValueError(
                f"num_relation_heads is {self.num_relation_heads}, which does not divide a projection's width {width}"
            )
        parts = states.float().unflatten(-1, (self.num_relation_heads, -1)).transpose(0, 1)
        return parts @ parts.transpose(1, 2) / parts.shape[-1] ** 0.5


HIDDEN_LOSSES: dict[str, type[HiddenLoss]] = {
    "hidden_mse": HiddenMSE,
    "hidden_cosine": HiddenCosine,
    "attention_relation": AttentionRelation,
}


def check_width(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError when the two models are not equally wide."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"the student's hidden states are {student.shape[-1]} wide, the teacher's {teacher.shape[-1]}; use attention_relation"
        )
