"""How a stage tells what it is doing. Progress, metrics and notes, to whoever listens (a terminal, Prefect, MLflow, a log)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

logger = logging.getLogger("attar")
T = TypeVar("T")
# More often than this only costs; a person cannot read it.
REPORT_INTERVAL_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of one activity; total 0 when not known."""

    label: str
    done: float
    total: float
    unit: str


@dataclass(frozen=True)
class Metric:
    """One measured number; `step` orders the points of a curve."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Note:
    """One line worth a log entry."""

    text: str


Event = Progress | Metric | Note


def ignore(event: Event) -> None:
    """Hear an event and do nothing."""


def hearing(
    *,
    progress: Callable[[Progress], None] = ignore,
    metric: Callable[[Metric], None] = ignore,
    note: Callable[[Note], None] = ignore,
) -> Callable[[Event], None]:
    """Return a listener that hands each kind of event to its own function."""
    by_kind: dict[type, Callable[..., None]] = {Progress: progress, Metric: metric, Note: note}
    return lambda event: by_kind[type(event)](event)


_listeners: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("listeners", default=())


@contextmanager
def listen(listener: Callable[[Event], None]) -> Iterator[None]:
    """Send every event raised inside the block to `listener` too."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def emit(event: Event) -> None:
    """Hand an event to every listener."""
    for listener in _listeners.get():
        listener(event)


def metric(name: str, value: float, step: int = 0) -> None:
    """Report one number, for instance a loss at a step."""
    emit(Metric(name, float(value), step))


def note(text: str) -> None:
    """Report one line, for instance a choice that was made."""
    logger.info(text)
    emit(Note(text))


@dataclass
class Bar:
    """A counter that reports itself, at most four times a second."""

    label: str
    total: float
    unit: str
    done: float = 0.0
    _reported_at: float = field(default=0.0, repr=False)

    def advance(self, amount: float = 1.0) -> None:
        """Count `amount` more units as done."""
        self.done += amount
        now = time.monotonic()
        if now - self._reported_at >= REPORT_INTERVAL_SECONDS or self.done >= self.total > 0:
            self._reported_at = now
            emit(Progress(self.label, self.done, self.total, self.unit))


def bar(label: str, total: float, unit: str, done: float = 0.0) -> Bar:
    """Start a progress bar; `done` is what an interrupted run had finished."""
    emit(Progress(label, done, total, unit))
    return Bar(label, total, unit, done)


def track(items: Sequence[T] | Iterable[T], label: str, unit: str, total: float = 0) -> Iterator[T]:
    """Yield the items and count them."""
    counter = bar(label, total or len(items), unit)  # type: ignore[arg-type]
    for item in items:
        yield item
        counter.advance()
