"""What a stage says while it works, passed on. To whoever shows it, to MLflow and, now and then, to Prefect's progress artifact."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from attar.registry.tracking.runs import Tracker
from attar.stages.runtime.progress import Event, Metric, Progress, hearing

logger = logging.getLogger(__name__)
# Progress in Prefect's UI: each update is a request, and a person looks every few seconds at most.
PROGRESS_SECONDS = 2.0


class Listener:
    """Takes the events of one node's stage, in order; a context, whose end without an error ends the progress too."""

    def __init__(self, node: str, tracker: Tracker, show: Callable[[Event], None]) -> None:
        self._node, self._tracker, self._show = node, tracker, show
        self._artifact: UUID | None = None
        self._updated_at = time.monotonic()  # a stage that ends within seconds needs no progress artifact
        self._lock = threading.Lock()
        self._hear = hearing(metric=self._log_metric, progress=self._show_progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._artifact is not None:  # what a person sees afterwards is not the last update but one
            self._tell_prefect(100.0, "done", is_last=True)

    def __call__(self, event: Event) -> None:
        self._show(event)
        self._hear(event)

    def _log_metric(self, metric: Metric) -> None:
        self._tracker.log_metric(self._node, metric.name, metric.value, metric.step)

    def _show_progress(self, progress: Progress) -> None:
        if progress.total:
            self._tell_prefect(100.0 * min(1.0, progress.done / progress.total), progress.label)

    def _tell_prefect(self, percent: float, label: str, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if now - self._updated_at < PROGRESS_SECONDS and not is_last:
            return
        self._updated_at = now
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, description=f"{self._node}: {label}")  # type: ignore[assignment]
            elif percent > 0:
                update_progress_artifact(self._artifact, percent, description=f"{self._node}: {label}")
        except Exception as error:  # noqa: BLE001 - progress is a courtesy; the stage goes on
            logger.warning("Prefect did not take a progress update: %s", error)
