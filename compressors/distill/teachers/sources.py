"""When a teacher that is the student itself follows the student. Its weights are kept beside it and move by a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from attar.compressors.distill.examples.steps import Clock


class SelfRule(Protocol):
    """Says which share of the student's weights of now the kept ones take before a step; 1: all, 0: none.

    `keeps`: False when nothing is kept: the source is the student of now (live), or its base without adapters.
    `moves`: its outputs change while the student learns. `is_base`: it is the base, its adapters off.
    """

    keeps: ClassVar[bool]
    moves: ClassVar[bool]
    is_base: ClassVar[bool]

    def share(self, clock: Clock) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Base:
    """The student's base with its adapters or its prefix off: a teacher without memory of its own. For low-rank methods and prefixes."""

    keeps: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    is_base: ClassVar[bool] = True

    def share(self, clock: Clock) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Live:
    """The student of now, without gradient."""

    keeps: ClassVar[bool] = False
    moves: ClassVar[bool] = True
    is_base: ClassVar[bool] = False

    def share(self, clock: Clock) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """The student before its first step."""

    keeps: ClassVar[bool] = True
    moves: ClassVar[bool] = False
    is_base: ClassVar[bool] = False

    def share(self, clock: Clock) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Ema:
    """kept <- decay kept + (1 - decay) student, every `every` steps. A decay near 0 is nearly a copy that lags behind.

    https://arxiv.org/abs/1703.01780
    """

    decay: float = 0.999
    every: int = 1

    keeps: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    is_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay is {self.decay}; accepted: from 0, below 1")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; accepted: 1 or more steps")

    def share(self, clock: Clock) -> float:
        return 1.0 - self.decay if clock.step and clock.step % self.every == 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class PreviousEpoch:
    """The student as the previous epoch left it; in the first epoch as it started. https://arxiv.org/abs/2006.12000"""

    keeps: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    is_base: ClassVar[bool] = False

    def share(self, clock: Clock) -> float:
        return float(clock.is_epoch_start)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The student as the previous generation left it: one lasts `num_epochs`. https://arxiv.org/abs/2601.13100"""

    num_epochs: int = 1

    keeps: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    is_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise ValueError(f"num_epochs is {self.num_epochs}; accepted: 1 or more")

    def share(self, clock: Clock) -> float:
        return float(clock.is_epoch_start and clock.epoch % self.num_epochs == 0)


SELF_RULES: dict[str, type[SelfRule]] = {
    "base": Base,
    "live": Live,
    "start": Start,
    "ema": Ema,
    "previous_epoch": PreviousEpoch,
    "generation": Generation,
}
