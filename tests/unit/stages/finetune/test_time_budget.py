"""A budget of minutes: whole passes that fit, none begun that does not, and a refusal where not one fits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attar.stages.finetune.time_budget import TimeBudget


class Clock:
    """A clock that moves as it is told."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds: Iterator[float] = iter(seconds)
        self.time = 0.0

    def step(self) -> None:
        self.time += next(self._seconds)


def trained(minutes: float, seconds: list[float], num_per_pass: int, used: float = 0.0) -> int:
    """Return the step behind which the budget is used up, 0 where it never is."""
    clock = Clock(seconds)
    budget = TimeBudget(minutes, num_per_pass, used, lambda: clock.time)
    for step in range(1, len(seconds) + 1):
        clock.step()
        budget.after(step)
        if budget.is_used_up:
            return step
    return 0


def test_training_ends_behind_the_last_pass_that_fits() -> None:
    assert trained(1.0, [2.0] * 40, 10) == 30, "60 seconds hold three passes of 20"
    assert trained(1.05, [2.0] * 40, 10) == 30
    assert trained(0.0, [2.0] * 40, 10) == 0, "no limit"
    assert trained(1.0, [2.0] * 20, 10, used=40.0) == 10, "what an earlier process used counts"


def test_too_few_minutes_for_one_pass_are_refused_after_a_few_steps() -> None:
    wanted = r"max_minutes is 1, but one pass of 100 steps takes about 3\.\d minutes; accepted: at least as many, 0"
    with pytest.raises(ValueError, match=wanted):
        trained(1.0, [2.0] * 100, 100)
    # the first step pays for warming up: 20 seconds of it would be 33 minutes a pass
    assert trained(4.0, [20.0] + [2.0] * 99, 100) == 100


def test_a_pass_of_a_few_steps_is_finished_and_ends_the_training() -> None:
    assert trained(0.01, [2.0] * 9, 3) == 3
