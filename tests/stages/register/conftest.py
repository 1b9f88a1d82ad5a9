"""Fixtures of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts.store import Store
from tests.databases import copy_database


@pytest.fixture
def store(store: Store, mlflow_database: Path) -> Store:
    """A store in a home whose MLflow database is there already."""
    copy_database(mlflow_database, store.root / "mlflow.db")
    return store
