"""What is known of a sequence before anything is computed on it, and which objectives it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.examples.chunks import Chunks

Route = Literal["all", "correct", "wrong", "plain", "hinted"]
# What an objective may need to know of sequences: that a policy drew them (the student, and with what probability), how a verifier or a
# teacher judged them, that several answer one prompt, what `align` recorded, the class of each, that it is a pair, the pair's grade, how
# its question was thought through.
Fact = Literal[
    "student_draws",
    "old_logprobs",
    "rewards",
    "groups",
    "pass_rates",
    "scores",
    "chunks",
    "labels",
    "pairs",
    "grades",
    "reasoning",
]
ROUTES: tuple[Route, ...] = ("all", "correct", "wrong", "plain", "hinted")


@dataclass(frozen=True)
class SampleFacts:
    """What is known of one sequence before anything is computed on it.

    `group`: sequences of one prompt share it, and lie side by side. `reward` and `advantage`: of its verifier, none without one.
    `old_logprobs`: of its learned tokens under the policy that drew them, in nats. `pass_rate` p in [0, 1] of its prompt.
    `score`: how much it is the teacher's own, in [0, 1] (see sample_weights). `chunks`: for a teacher with another tokenizer.
    `has_hint`: the teacher can be told something; `is_hinted`: this very sequence stands behind it, as the teacher sees it.
    """

    group: int = -1
    reward: float = 0.0
    advantage: float = 0.0
    is_correct: bool = False
    has_hint: bool = True
    is_hinted: bool = False
    pass_rate: float | None = None
    score: float | None = None
    chunks: Chunks | None = None
    old_logprobs: Float[Tensor, "T"] | None = None


def is_routed(sample: SampleFacts, route: Route) -> bool:
    """Say whether a sequence goes this way.

    `wrong`: not correct, and the teacher can be told something; `correct`: every other, so that each sequence goes one of the two ways.
    `hinted`: it stands behind the hint itself; `plain`: every other.
    """
    is_wrong = not sample.is_correct and sample.has_hint
    taken = {"all": True, "wrong": is_wrong, "correct": not is_wrong}
    return taken.get(route, sample.is_hinted == (route == "hinted"))


def group_advantages(rewards: Sequence[float], *, is_scaled: bool = True) -> list[float]:
    """Return (R - mean) / (std + 1e-4) over the sequences of one prompt, std with n - 1. Without `is_scaled` R - mean.

    https://arxiv.org/abs/2402.03300
    """
    values = torch.tensor(rewards, dtype=torch.float64)
    centered = values - values.mean()
    if is_scaled and len(values) > 1:
        centered = centered / (values.std() + 1e-4)
    return centered.tolist()
