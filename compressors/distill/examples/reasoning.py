"""A question with its reasoning. Which tokens think in its stead, and what step teaches each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# What an encoder gives beside vectors where a loss reads it: the states of latent tokens, and of the steps that teach them.
STEP_STATES = "step_states"
# Rows of a batch that a question takes: behind its latent tokens, the text that answers it, with its reasoning.
ROWS_PER_QUESTION = 3
# Tokens of a step in a text, from the first to before the last.
Step = tuple[int, int]


@dataclass(frozen=True)
class Reasoning:
    """A question's explicit view, as token ids, beside its latent one.

    `latents`: the columns of its latent tokens where it stands behind them. `steps`: of the explicit view's tokens those that teach each latent
    token; none where the whole reasoning was cut away.
    """

    ids: Sequence[int]
    latents: Sequence[int] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True)
class ReasonedBatch:
    """Where the latent tokens of R questions stand in rows of T tokens, and the weights of each step's tokens."""

    latents: Int[Tensor, "R K"]
    weights: Float[Tensor, "R K T"]
    has_steps: Bool[Tensor, "R"]

    @staticmethod
    def of(reasonings: Sequence[Reasoning], num_columns: int) -> ReasonedBatch:
        """Return those of a batch. A question without steps has weights of zero."""
        num_latents = len(reasonings[0].latents)
        weights = torch.zeros(len(reasonings), num_latents, num_columns)
        for row, reasoning in enumerate(reasonings):
            for latent, (start, end) in enumerate(reasoning.steps):
                weights[row, latent, start:end] = 1.0 / (end - start)
        latents = torch.tensor([list(reasoning.latents) for reasoning in reasonings], dtype=torch.long)
        return ReasonedBatch(latents, weights, torch.tensor([bool(reasoning.steps) for reasoning in reasonings]))

    def states(self, states: Float[Tensor, "... B T D"]) -> Float[Tensor, "... 2 R K D"]:
        """Return the states of the latent tokens, and the mean state of the step that teaches each."""
        latent, explicit = (states[..., side::ROWS_PER_QUESTION, :, :] for side in (0, ROWS_PER_QUESTION - 1))
        questions = torch.arange(len(self.latents), device=states.device)[:, None]
        own = latent[..., questions, self.latents.to(states.device), :]
        steps = self.weights.to(states) @ explicit
        return torch.stack([own, steps], dim=-4)


def resampled(steps: Sequence[Step], count: int) -> list[Step]:
    """Return as many steps as there are latent tokens: spread evenly, rounded down, or the last again and again. None of none.

    https://arxiv.org/abs/2603.01425
    """
    if not steps or not count:
        return []
    if len(steps) < count:
        return [*steps, *[steps[-1]] * (count - len(steps))]
    return [steps[int(index)] for index in torch.linspace(0, len(steps) - 1, count)]
