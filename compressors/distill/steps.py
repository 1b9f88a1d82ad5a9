"""How long training lasts, which examples each step takes, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from compressors.distill.packing import Example


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps and learning rate: linear warm-up over `warmup_fraction`, then along `decay` to zero.

    `num_epochs` passes over the data, cut at `max_steps` where that is not 0.
    """

    num_epochs: int
    max_steps: int
    decay: Literal["cosine", "linear", "none"]
    learning_rate: float
    warmup_fraction: float
    tokens_per_step: int
    tokens_per_micro_batch: int
    max_grad_norm: float
    weight_decay: float

    def rate_at(self, step: int, num_steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of `num_steps`."""
        num_warmup = max(1, round(num_steps * self.warmup_fraction))
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        left = {"cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "linear": 1.0 - progress, "none": 1.0}
        return self.learning_rate * left[self.decay]


def steps_of(order: Sequence[int], examples: Sequence[Example], tokens_per_step: int) -> list[list[int]]:
    """Return the examples of each step: whole ones in `order`, at most `tokens_per_step` tokens, or one example that is longer.

    At most, not at least: a step that runs over by a little would need a second micro-batch, which costs nearly as much as a full one.
    """
    steps: list[list[int]] = [[]]
    num_tokens = 0
    for index in order:
        if steps[-1] and num_tokens + examples[index].num_tokens > tokens_per_step:
            steps.append([])
            num_tokens = 0
        steps[-1].append(index)
        num_tokens += examples[index].num_tokens
    return steps


def used_examples(order: Callable[[int], Sequence[int]], examples: Sequence[Example], schedule: Schedule) -> set[int]:
    """Return the examples that a schedule reaches."""
    used: set[int] = set()
    num_left = schedule.max_steps or math.inf
    for epoch in range(schedule.num_epochs):
        steps = steps_of(order(epoch), examples, schedule.tokens_per_step)
        used.update(index for step in steps[: int(min(num_left, len(steps)))] for index in step)
        num_left -= len(steps)
        if num_left <= 0:
            break
    return used
