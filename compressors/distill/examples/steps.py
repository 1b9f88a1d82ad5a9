"""How long training lasts, which examples each step takes, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from attar.compressors.distill.examples.learned import LearnedExample


@dataclass(frozen=True)
class Clock:
    """Where training is, before a step: step and epoch counted from 0."""

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    is_epoch_start: bool = False


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


def steps_of(order: Sequence[int], examples: Sequence[LearnedExample], tokens_per_step: int) -> list[list[int]]:
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


class Steps:
    """Which examples each optimizer step of a schedule takes. `order(epoch)` gives the examples of an epoch.

    Epochs are as long as the first: one that packs into fewer steps begins again, one that packs into more is cut.
    """

    def __init__(
        self, order: Callable[[int], Sequence[int]], examples: Sequence[LearnedExample], schedule: Schedule
    ) -> None:
        self.schedule = schedule
        self._order, self._examples = order, examples
        self._epoch, self._steps = 0, self._of_epoch(0)
        self.num_per_epoch = len(self._steps)

    def __len__(self) -> int:
        planned = self.num_per_epoch * self.schedule.num_epochs
        return min(planned, self.schedule.max_steps or planned)

    def at(self, step: int) -> tuple[int, list[int]]:
        """Return (epoch, examples) of a step, counted from 0."""
        epoch, position = divmod(step, self.num_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._steps = epoch, self._of_epoch(epoch)
        return epoch, self._steps[position % len(self._steps)]

    def used(self) -> set[int]:
        """Return the examples of all steps."""
        return {index for step in range(len(self)) for index in self.at(step)[1]}

    def _of_epoch(self, epoch: int) -> list[list[int]]:
        return steps_of(self._order(epoch), self._examples, self.schedule.tokens_per_step)
