"""The home's own database of MLflow: made whole or made again, and what is whole is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts.environment import is_database_whole
from attar.registry.tracking.mlflow_home import experiment_id, open_client


def test_a_database_that_was_left_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"half")
    (tmp_path / "mlflow.db.unfinished").touch()
    assert not is_database_whole(tmp_path)
    client = open_client(tmp_path)
    number = experiment_id(client, tmp_path)
    assert is_database_whole(tmp_path)
    assert Path(client.get_experiment("0").artifact_location.removeprefix("file://")).is_relative_to(tmp_path)
    before = (tmp_path / "mlflow.db").stat().st_ino
    assert open_client(tmp_path).get_experiment_by_name("attar").experiment_id == number
    assert (tmp_path / "mlflow.db").stat().st_ino == before


def test_a_file_that_nobody_was_making_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of a database in use is a person's to mend: its runs would be lost."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(Exception, match="file is not a database"):
        open_client(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == b"damaged" * 1000
