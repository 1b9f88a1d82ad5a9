"""What a person sees while a recipe runs. A bar a node on a terminal, plain lines with times in a log."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from attar.stages.runtime.progress import Event, hearing
from attar.stages.runtime.progress import Progress as Step

LINE_INTERVAL_SECONDS = 10.0


class RunConsole:
    """Shows node states, progress and notes. Safe from several threads; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[node]}", style="bold"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._activities: dict[str, _Activity] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> RunConsole:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def line(self, node: str, text: str, style: str = "") -> None:
        """Print one line about a node."""
        stamp = datetime.now().strftime("%H:%M:%S")
        self.console.print(
            f"{stamp} {node:<20} {text}", style=style or None, highlight=False, markup=False, soft_wrap=True
        )

    def node_started(self, node: str, stage: str) -> None:
        """Show that a node begins."""
        with self._lock:
            self._tasks[node] = self._bars.add_task(stage, node=node, count="", total=None)
        self.line(node, f"{stage} started")

    def node_ended(self, node: str, text: str, style: str = "") -> None:
        """Show how a node ended and take its bar away."""
        with self._lock:
            task = self._tasks.pop(node, None)
            self._activities.pop(node, None)
        if task is not None:
            self._bars.remove_task(task)
        self.line(node, text, style)

    def event(self, node: str, event: Event) -> None:
        """Show what a stage reports."""
        hearing(note=lambda note: self.line(node, note.text), progress=lambda step: self._step(node, step))(event)

    def _step(self, node: str, step: Step) -> None:
        with self._lock:
            activity = self._activities.get(node)
            if activity is None or activity.label != step.label:
                activity = self._activities[node] = _Activity(step.label, step.done)
            text = activity.describe(step)
            is_due = activity.is_due(step)
            task = self._tasks.get(node)
        if task is not None:
            self._bars.update(task, description=step.label, completed=step.done, total=step.total or None, count=text)
        if is_due and not self.console.is_terminal:
            self.line(node, f"{step.label}: {text}")


class WarningLines(logging.Handler):
    """Shows our own warnings as lines of the run; Prefect's logging would hide them."""

    def __init__(self, shown: RunConsole) -> None:
        super().__init__(logging.WARNING)
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        self._shown.line("", f"warning: {record.getMessage()}", "yellow")


class _Activity:
    """Rate and time left of one labelled activity, from when it began."""

    def __init__(self, label: str, done_before: float) -> None:
        self.label = label
        self._done_before = done_before
        self._started = self._printed_at = time.monotonic()

    def describe(self, step: Step) -> str:
        """Return 'done/total unit, rate, time left'."""
        elapsed = time.monotonic() - self._started
        rate = (step.done - self._done_before) / elapsed if elapsed > 0 else 0.0
        text = f"{step.done:,.0f}/{step.total:,.0f} {step.unit}" if step.total else f"{step.done:,.0f} {step.unit}"
        if rate > 0:
            text += f", {rate:,.1f}/s" if rate >= 1 else f", {1 / rate:,.1f} s each"
            if step.total > step.done:
                text += f", {(step.total - step.done) / rate:,.0f} s left"
        return text

    def is_due(self, step: Step) -> bool:
        """Say whether a line is due: at the end and every few seconds. A log wants lines, not a film."""
        now = time.monotonic()
        is_end = step.total > 0 and step.done >= step.total and now - self._started > 2.0
        if is_end or now - self._printed_at > LINE_INTERVAL_SECONDS:
            self._printed_at = now
            return True
        return False
