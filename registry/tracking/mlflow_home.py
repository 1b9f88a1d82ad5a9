"""Where MLflow keeps things: the server that MLFLOW_TRACKING_URI names, else one SQLite file under ATTAR_HOME."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from attar.registry.artifacts.environment import (
    DATABASE,
    UNFINISHED,
    is_database_whole,
    local_tracking_uri,
    tracking_uri,
    writable,
)

# Databases that this process has begun to make.
_BEGUN: set[Path] = set()
EXPERIMENT = "attar"
# what MLflow's pages go by: without the kind they show an experiment's chats and traces, of which there are none here
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "A run a recipe run, with a child run a node. Tick two and press Compare to see them side by side.",
}


def open_client(home: Path) -> MlflowClient:
    """Return a client of tracking server and registry. The database is made on first use."""
    writable(home)
    uri = tracking_uri(home)
    _quiet_mlflow()
    if uri == local_tracking_uri(home):
        make_database(home)
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def make_database(home: Path) -> None:
    """Make the SQLite file of a home, where it is not there or was left half made; nothing else happens.

    MLflow's migrations are no transaction: where the process that made the file was killed, or found the disk full, the next one meets
    half of the tables and fails, for ever. Nothing is recorded before the file is whole, so that a half one is deleted.
    """
    if is_database_whole(home):
        return
    path, mark = home / DATABASE, home / f"{DATABASE}{UNFINISHED}"
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # half a second, for a home's first run alone

    with FileLock(home / f"{DATABASE}.lock"):
        if is_database_whole(home):  # made by another process in the meantime
            return
        if path not in _BEGUN:  # what this process began MLflow still has open: a file of that name would be another
            for suffix in ("", "-journal", "-wal", "-shm"):
                (home / f"{DATABASE}{suffix}").unlink(missing_ok=True)
        _BEGUN.add(path)
        mark.touch()
        _quiet_mlflow()
        # the experiment of those who name none lies in the home too, whoever makes the file
        SqlAlchemyStore(local_tracking_uri(home), (home / "mlartifacts").as_uri())
        mark.unlink()


def _quiet_mlflow() -> None:
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it reports every database migration


@contextmanager
def global_tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's global tracking URI inside the block: its SQL registry makes clients of its own, which look only there.

    MLflow keeps the setting in MLFLOW_TRACKING_URI too, from where it would pass for the user's choice afterwards.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(chosen or None)  # type: ignore[arg-type]


def experiment_id(client: MlflowClient, home: Path, name: str = EXPERIMENT) -> str:
    """Return the id of an experiment, made when missing; artifacts of a local one lie under the home folder."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            client.restore_experiment(experiment.experiment_id)
        for tag, value in EXPERIMENT_TAGS.items():
            if tag not in experiment.tags:
                client.set_experiment_tag(experiment.experiment_id, tag, value)
        return experiment.experiment_id
    location = None if os.environ.get("MLFLOW_TRACKING_URI") else (home / "mlartifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
    except MlflowException:  # another run made it in the meantime
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id
