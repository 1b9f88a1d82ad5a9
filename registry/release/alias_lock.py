"""One at a time moves the aliases of a registered model. To read who is champion and to write who is next are two requests to MLflow."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from attar.registry.artifacts.environment import attar_home

# A decision takes seconds; whoever holds the lock for longer hangs.
WAIT_SECONDS = 300.0
# Somebody else writes to MLflow's SQLite file, such as a run that logs: it gives way in a moment.
BUSY = ("database is locked", "database table is locked")
BUSY_SECONDS = 60.0
# How MLflow says that a model, a version or an alias is not there; any other error says nothing about that.
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
T = TypeVar("T")


@contextmanager
def moving_aliases(name: str) -> Iterator[None]:
    """Hold the right to move the aliases of a model inside the block. Raises ValueError when another process holds it for minutes."""
    folder = attar_home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    # a name may be longer than a file's name, or differ from another in case alone
    lock = FileLock(folder / f"aliases-{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock")
    try:
        with lock.acquire(timeout=WAIT_SECONDS):
            yield
    except Timeout as error:
        raise ValueError(f"{name}: another promotion has been at work for {WAIT_SECONDS:.0f} s; try again") from error


def while_busy(ask: Callable[[], T]) -> T:
    """Ask MLflow, and again while its database is busy; what else it says is for the caller."""
    deadline, pause = time.monotonic() + BUSY_SECONDS, 0.2
    while True:
        try:
            return ask()
        except (MlflowException, OperationalError) as error:
            if not any(sign in str(error) for sign in BUSY):
                raise
            if time.monotonic() > deadline:
                raise ValueError(f"MLflow's database has been locked for {BUSY_SECONDS:.0f} s; try again") from error
        Event().wait(pause)
        pause = min(2 * pause, 5.0)


def patiently(ask: Callable[[], T]) -> T:
    """Ask MLflow one thing, and again while its database is busy. Raises ValueError, in one line, when it does not answer."""
    try:
        return while_busy(ask)
    except (MlflowException, OperationalError) as error:
        raise ValueError(f"MLflow: {str(error).strip().splitlines()[0][:300]}") from error
