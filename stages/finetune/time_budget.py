"""A budget of minutes for a training: whole passes over its rows that fit, a refusal where none does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Steps whose time tells what a pass takes; the first one also pays for warming up and is left out where there are others.
NUM_TIMED = 4


@dataclass
class TimeBudget:
    """Minutes that a training may take, 0 without end; `num_per_pass` steps are a pass. `seconds`: used before this process."""

    minutes: float
    num_per_pass: int
    seconds: float = 0.0
    now: Callable[[], float] = time.monotonic
    is_used_up: bool = False
    _times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._times.append(self.now())  # what is loaded and evaluated before the first step counts too

    @property
    def why(self) -> str:
        """Why training ends; empty where the budget is not used up."""
        return f"another pass does not fit into {self.minutes:g} minutes" if self.is_used_up else ""

    def used(self) -> float:
        """Return the seconds used so far, by every process that worked on this training."""
        return self.seconds + self.now() - self._times[0]

    def after(self, step: int) -> None:
        """Count a step, from 1. Behind a pass, see whether another fits. Raises ValueError where the first one does not."""
        if not self.minutes:
            return
        if len(self._times) <= NUM_TIMED:
            self._times.append(self.now())
        if len(self._times) == NUM_TIMED + 1 and step < self.num_per_pass:
            self._refuse_too_short(step)
        if step % self.num_per_pass == 0:
            seconds_a_pass = self.used() / (step / self.num_per_pass)
            self.is_used_up = self.used() + seconds_a_pass > 60.0 * self.minutes

    def _refuse_too_short(self, step: int) -> None:
        first = min(1, len(self._times) - 2)
        a_step = (self._times[-1] - self._times[first]) / (len(self._times) - 1 - first)
        needed = self.used() + a_step * (self.num_per_pass - step)
        if needed > 60.0 * self.minutes:
            raise ValueError(
                f"schedule.max_minutes is {self.minutes:g}, but one pass of {self.num_per_pass} steps takes about {needed / 60:.2g} minutes; "
                "accepted: at least as many, 0 (no limit), or fewer rows"
            )
