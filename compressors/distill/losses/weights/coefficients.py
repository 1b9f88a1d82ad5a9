"""How an objective changes while training goes on: a parameter that ramps, a divergence that is switched."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.traits import Divergence

O = TypeVar("O")  # noqa: E741


class CoefficientSchedule(Protocol):
    """Returns the objective and its weight as they are at a time."""

    def at(self, objective: Any, weight: float, clock: Clock) -> tuple[Any, float]: ...


@dataclass(frozen=True, kw_only=True)
class LinearRamp:
    """Linear ramp over epochs or steps. start + (end - start) (t + 1) / T, so that the last has `end`. https://arxiv.org/abs/2006.12000

    `parameter`: `weight`, or a part of the objective and its field, such as target.share or sample_weight.kappa_nats.
    `until_fraction` in (0, 1]: the share of the training after which `end` is reached, and stays.
    """

    parameter: str
    end: float
    start: float = 0.0
    by: Literal["epoch", "step"] = "epoch"
    until_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.by not in ("epoch", "step"):
            raise ValueError(f"by is {self.by!r}; accepted: epoch, step")
        if not 0.0 < self.until_fraction <= 1.0:
            raise ValueError(f"until_fraction is {self.until_fraction}; accepted: above 0, at most 1")

    def at(self, objective: Any, weight: float, clock: Clock) -> tuple[Any, float]:
        now, total = (clock.epoch, clock.num_epochs) if self.by == "epoch" else (clock.step, clock.num_steps)
        value = self.start + (self.end - self.start) * min(1.0, (now + 1) / max(1, self.until_fraction * total))
        if self.parameter == "weight":
            return objective, value
        return with_parameter(objective, self.parameter, value), weight


@dataclass(frozen=True, kw_only=True)
class SwitchDivergence:
    """From `at_fraction` of the steps on, another divergence: forward KL first, then reverse KL. https://arxiv.org/abs/2603.11178"""

    to: Divergence
    at_fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.at_fraction < 1.0:
            raise ValueError(f"at_fraction is {self.at_fraction}; accepted: between 0 and 1")

    def at(self, objective: Any, weight: float, clock: Clock) -> tuple[Any, float]:
        is_later = clock.step >= self.at_fraction * clock.num_steps
        return (replace(objective, divergence=self.to) if is_later else objective), weight


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """A parameter that takes each of `values` in turn, for equal parts of the steps: 8, 4, 2, 1 segments. https://arxiv.org/abs/2404.13686"""

    parameter: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("values are empty; accepted: one number or more")

    def at(self, objective: Any, weight: float, clock: Clock) -> tuple[Any, float]:
        part = min(len(self.values) - 1, clock.step * len(self.values) // max(1, clock.num_steps))
        return with_parameter(objective, self.parameter, self.values[part]), weight


COEFFICIENT_SCHEDULES: dict[str, type[CoefficientSchedule]] = {
    "linear_ramp": LinearRamp,
    "switch_divergence": SwitchDivergence,
    "staircase": Staircase,
}


def with_parameter(owner: O, path: str, value: float) -> O:
    """Return a copy with the parameter at a dotted path replaced. Raises ValueError when it is not there."""
    head, _, rest = path.partition(".")
    known = [entry.name for entry in fields(owner)] if is_dataclass(owner) else []
    if head not in known:
        raise ValueError(f"parameter {path!r} is not there; known: {', '.join(known) or 'none'}")
    if not rest and not isinstance(getattr(owner, head), int | float):
        raise ValueError(f"parameter {path!r} is no number; a number is what changes")
    changed = with_parameter(getattr(owner, head), rest, value) if rest else value
    return replace(owner, **{head: changed})  # type: ignore[type-var]
