"""Runs: a recipe run in a process of its own, its record read back, and what it made at hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

from attar.entries import as_recipe
from attar.one_line import AttarError, told_in_one_line
from attar.pipelines.cli.run_listing import node_rows, run_state
from attar.pipelines.recipe.notebook_table import html_table, text_table
from attar.pipelines.recipe.whole import Recipe
from attar.pipelines.report.comparison import comparison_rows, stored_artifact
from attar.registry.artifacts.environment import attar_home, writable
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import RunRecord, find_run

# How the command line ends when nodes failed; the record says which.
NODES_FAILED = 1
MARK = "attar: "
# Set by a notebook's kernel: with them the command would draw bars and colours into a pipe.
TERMINAL_VARIABLES = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass(frozen=True, repr=False)
class Run:
    """One run of a recipe: what each node did (`record`), and what it made (`run["healed"]`), from the store."""

    record: RunRecord
    store: Store

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.record.id

    @property
    def state(self) -> str:
        """What became of it: running, done, failed, stopped or killed."""
        return run_state(self.record)

    @property
    def report(self) -> Path | None:
        """The HTML report, where it was written."""
        path = self.record.folder / "report.html"
        return path if path.exists() else None

    @property
    def table(self) -> list[dict[str, str]]:
        """One row for each model that was evaluated: figures with their intervals, and their ratio to the first's."""
        return comparison_rows(self.record, self.store)

    def __getitem__(self, node: str) -> Artifact:
        """Return what a node made. Raises KeyError where it made nothing that is still there."""
        artifact = stored_artifact(self.record, self.store, node) if node in self.record.nodes else None
        if artifact is None:
            made = ", ".join(self) or "nothing"
            raise KeyError(f"{node!r}: run {self.id} keeps no such artifact; it keeps {made}")
        return artifact

    def __iter__(self) -> Iterator[str]:
        return (node for node in self.record.nodes if stored_artifact(self.record, self.store, node) is not None)

    def raise_for_failure(self) -> Run:
        """Return the run. Raises AttarError, with node and cause, where a node failed."""
        failed = [f"node {name!r}: {node.cause}" for name, node in self.record.nodes.items() if node.state == "Failed"]
        if failed:
            raise AttarError(f"run {self.id} failed: {'; '.join(failed)}")
        return self

    def __repr__(self) -> str:
        tables = [text_table(node_rows(self.record), self._caption)]
        return "\n\n".join([*tables, *([text_table(self.table)] if self.table else [])])

    def _repr_html_(self) -> str:
        report = f"Report: {self.report}" if self.report else ""
        figures = html_table(self.table, self._caption, report)
        return f"<div>{figures}{html_table(node_rows(self.record))}</div>"

    @property
    def _caption(self) -> str:
        return f"Run {self.id}: {self.state} after {self.record.seconds:,.1f} s"


@told_in_one_line
def run(
    recipe: Recipe | str | Path,
    *,
    overrides: Sequence[str] = (),
    until: str = "",
    from_node: str = "",
    workers: int = 0,
    store: Store | None = None,
    is_quiet: bool = False,
) -> Run:
    """Run a recipe as `attar run` does, in a process of its own, and return the run. What is stored is reused, the rest is built.

    Its lines are printed unless `is_quiet`. A node that fails is in the run, not raised: see `Run.raise_for_failure`.
    Raises RecipeError for mistakes in the recipe, AttarError where nothing could be run, such as a server that does not answer.
    """
    store = store or Store(attar_home())
    checked = as_recipe(recipe, overrides)
    checked = checked.until(until) if until else checked
    options = ["--workers", str(workers), *(["--from", from_node] if from_node else [])]
    writable(store.root)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{checked.name}.yaml"
        path.write_text(checked.to_yaml())
        run_id = _run_command([str(path), *options], store.root, is_quiet)
    return Run(find_run(store.root, run_id), store)


@told_in_one_line
def load_run(run_id: str = "latest", *, store: Store | None = None) -> Run:
    """Return a run by the start of its id; `latest` is the newest. Raises AttarError where none or several match."""
    store = store or Store(attar_home())
    return Run(find_run(store.root, run_id), store)


def _run_command(arguments: Sequence[str], home: Path, is_quiet: bool) -> str:
    """Run `attar run` and return the run's id. An interrupt is handed on, so that the run can be gone on with later."""
    command = [sys.executable, "-m", "attar", "run", *arguments, "--json"]
    environment_kept = {name: value for name, value in os.environ.items() if name not in TERMINAL_VARIABLES}
    environment = {**environment_kept, "ATTAR_HOME": str(home), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    refusals: list[str] = []
    last: deque[str] = deque(maxlen=1)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout and process.stderr
        reader = Thread(target=_show, args=(process.stderr, refusals, last, is_quiet), daemon=True)
        reader.start()
        try:
            answer = process.stdout.read()
            process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        reader.join()
    try:
        return json.loads(answer)["id"]
    except (ValueError, KeyError) as error:
        how = f"the run ended without a result (exit code {process.returncode})"
        raise AttarError("; ".join(refusals) or ": ".join([how, *last])) from error


def _show(lines: IO[str], refusals: list[str], last: deque[str], is_quiet: bool) -> None:
    """Print a command's lines as they come; keep those by which it refuses, and the last."""
    for line in lines:
        last.append(line.strip())
        if line.startswith(MARK):
            refusals.append(line.removeprefix(MARK).strip())
        elif not is_quiet:
            print(line, end="", flush=True)
