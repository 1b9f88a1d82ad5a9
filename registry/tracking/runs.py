"""MLflow tracking of a recipe run: a parent run, a child run a node. A failure here is a warning, never the loss of an artifact."""

from __future__ import annotations

import functools
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from attar.registry.artifacts.environment import MLFLOW_FACE, package_versions
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import DATA_CARD, FIGURES, FLIPS, TRIALS, Artifact
from attar.registry.tracking.metric_names import metric_name
from attar.registry.tracking.mlflow_home import experiment_id, open_client

logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])
MAX_PARAM_CHARACTERS = 6000
MAX_PARAMS = 100  # in one request
FLUSH_SECONDS = 2.0
FLUSH_COUNT = 200


def _guarded(method: F) -> F:
    """Turn any failure of MLflow into one warning: the work goes on without tracking."""

    @functools.wraps(method)
    def call(self: Tracker, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - MLflow, its database or the network: none may cost an artifact
            first_line = str(error).partition("\n")[0]
            logger.warning("MLflow tracking failed in %s: %s: %s", method.__name__, type(error).__name__, first_line)
            return None

    return cast(F, call)


class Tracker:
    """Writes one recipe run to MLflow. Every method is safe to call whatever MLflow does; safe from several threads."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.run_id = ""
        self._children: dict[str, str] = {}
        self._buffers: dict[str, list[Metric]] = {}
        self._flushed_at: dict[str, float] = {}
        # by node, what stands in its run under each (name, step), and since when
        self._logged: dict[str, dict[tuple[str, int], Metric]] = {}
        self._lock = threading.Lock()

    @_guarded
    def start(self, name: str, *, tags: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Open the parent run, its parameters what the recipe has chosen: two runs side by side show where they differ."""
        self._client = open_client(self._home)
        self._experiment_id = experiment_id(self._client, self._home)
        versions = {f"version.{package}": version for package, version in package_versions().items()}
        run = self._client.create_run(self._experiment_id, run_name=name, tags={**tags, **versions})
        self.run_id = run.info.run_id
        params = _params(config)
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=params[first : first + MAX_PARAMS])

    @_guarded
    def start_node(self, node: str, *, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open a node's child run with its parameters."""
        if not self.run_id:
            return
        run = self._client.create_run(
            self._experiment_id, tags={**tags, MLFLOW_PARENT_RUN_ID: self.run_id, MLFLOW_RUN_NAME: node}
        )
        self._children[node], self._logged[node] = run.info.run_id, {}
        self._client.log_batch(run.info.run_id, params=_params(config))

    @_guarded
    def join(self, node: str, run_id: str) -> None:
        """Write to a node's run that another process has opened, and will close."""
        if run_id:
            self._client = open_client(self._home)
            names = self._client.get_run(run_id).data.metrics
            points = [point for name in names for point in self._client.get_metric_history(run_id, name)]
            self._logged[node] = {
                (point.key, point.step): point for point in sorted(points, key=lambda point: point.timestamp)
            }
            self._children[node] = run_id

    @_guarded
    def leave(self, node: str) -> None:
        """Write what is left of a node's numbers; the run stays open for whoever opened it."""
        if node in self._children:
            self._flush(node)

    def node_run_id(self, node: str) -> str:
        """Return the child run of a node, or an empty string."""
        return self._children.get(node, "")

    @_guarded
    def log_metric(self, node: str, name: str, value: float, step: int) -> None:
        """Add one number to a node's run; written in batches.

        What stands there already is not written again: a resumed stage tells its steps anew. Another number for the same step comes
        later by the clock, if only by a millisecond: of two at one time MLflow keeps the larger.
        """
        if node not in self._children:
            return
        name = metric_name(name)
        with self._lock:
            buffer, logged = self._buffers.setdefault(node, []), self._logged.setdefault(node, {})
            before, now = logged.get((name, step)), int(time.time() * 1000)
            if before is not None and (before.value == value or (math.isnan(before.value) and math.isnan(value))):
                return
            point = Metric(name, value, now if before is None else max(now, before.timestamp + 1), step)
            if before is not None and before in buffer:
                buffer.remove(before)
            buffer.append(point)
            logged[name, step] = point
            is_due = time.monotonic() - self._flushed_at.get(node, 0.0) > FLUSH_SECONDS or len(buffer) >= FLUSH_COUNT
        if is_due:
            self._flush(node)

    @_guarded
    def log_input(self, node: str, slot: str, artifact: Artifact) -> None:
        """Say which data set a node read."""
        if node not in self._children:
            return
        profile = json.dumps({name: value for name, value in artifact.facts.items() if name != "source"})
        source = str(artifact.facts.get("source", "attar"))
        dataset = Dataset(
            name=f"{slot}-{artifact.key[:12]}",
            digest=artifact.fingerprint[:36],
            source_type="attar",
            source=json.dumps({"uri": source, "key": artifact.key}),
            profile=profile,
        )
        inputs = [DatasetInput(dataset, tags=[InputTag("mlflow.data.context", slot)])]
        self._client.log_inputs(self._children[node], datasets=inputs)

    @_guarded
    def end_node(self, node: str, status: str, artifact: Artifact | None) -> None:
        """Close a node's run; with an artifact, tag it by fingerprint and log its facts."""
        if node not in self._children:
            return
        self._flush(node)
        run_id = self._children[node]
        if artifact is not None:
            self._log_tables(run_id, artifact)
            tags = {"attar.key": artifact.key, "attar.fingerprint": artifact.fingerprint, "attar.kind": artifact.kind}
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            self._client.set_tag(self.run_id, f"attar.fingerprint.{node}", artifact.fingerprint)
            if artifact.kind == "evaluation":
                numbers = {name: value for name, value in artifact.facts.items() if isinstance(value, int | float)}
                now = int(time.time() * 1000)
                self._client.log_batch(
                    self.run_id,
                    metrics=[Metric(metric_name(f"{node}/{name}"), value, now, 0) for name, value in numbers.items()],
                )
        self._client.set_terminated(run_id, status)

    @_guarded
    def log_table(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put rows of one form under the parent run as a table."""
        if self.run_id and rows:
            self._client.log_table(self.run_id, {name: [row[name] for row in rows] for name in rows[0]}, file)

    @_guarded
    def end(self, status: str, report: Path | None) -> None:
        """Close the parent run, with the report as its artifact."""
        if not self.run_id:
            return
        if report is not None and report.exists():
            self._client.log_artifact(self.run_id, str(report))
        self._client.set_terminated(self.run_id, status)

    def page_of(self, artifact: str) -> str:
        """Return the address of MLflow's page for an artifact of the parent run. Empty where MLflow is no server or has no run."""
        if not self.run_id or not self._client.tracking_uri.startswith("http"):
            return ""
        server = self._client.tracking_uri.rstrip("/")
        return f"{server}/#/experiments/{self._experiment_id}/runs/{self.run_id}/artifacts/{artifact}?{MLFLOW_FACE}"

    @_guarded
    def close_dead_run(self, run_id: str) -> None:
        """Mark a run whose process died, and its unfinished children, as killed."""
        if not run_id:
            return
        client = open_client(self._home)
        run = client.get_run(run_id)
        children = client.search_runs([run.info.experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")
        for member in (run, *children):
            if member.info.status == "RUNNING":
                client.set_terminated(member.info.run_id, "KILLED")

    @_guarded
    def _log_tables(self, run_id: str, artifact: Artifact) -> None:
        """Put a data set's card, a merge's trials, a check's flips or a version's figures under the node's run. Also of a reused artifact."""
        for stem in (DATA_CARD, TRIALS):
            for path in sorted((artifact.path / RECORDS_FOLDER).glob(f"{stem}.*")):
                self._client.log_artifact(run_id, str(path), stem)
        if (artifact.path / FIGURES).is_file():
            table = json.loads((artifact.path / FIGURES).read_text())
            columns = dict(zip(table["columns"], map(list, zip(*table["data"], strict=True)), strict=False))
            if columns:
                self._client.log_table(run_id, columns, FIGURES)
        if (artifact.path / FLIPS).is_file():
            rows = [json.loads(line) for line in (artifact.path / FLIPS).read_text().splitlines()]
            if rows:
                self._client.log_table(run_id, {name: [row[name] for row in rows] for name in rows[0]}, "flips.json")

    def _flush(self, node: str) -> None:
        with self._lock:
            metrics, self._buffers[node] = self._buffers.get(node, []), []
            self._flushed_at[node] = time.monotonic()
        if metrics:
            self._client.log_batch(self._children[node], metrics=metrics)


def _params(config: Mapping[str, Any]) -> list[Param]:
    return [Param(metric_name(name), str(value)[:MAX_PARAM_CHARACTERS]) for name, value in _flat(config).items()]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
