"""A notebook whose server is not there: one line that says what to do, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import attar
from tests.system.operated import free_ports

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("variable", "call", "message"),
    [
        ("PREFECT_API_URL", lambda folder: attar.run("tiny", until="original", is_quiet=True), "`attar doctor` says more"),
        ("MLFLOW_TRACKING_URI", lambda folder: attar.pull("small@champion", folder / "small"), "does not answer"),
        ("MLFLOW_TRACKING_URI", lambda folder: attar.compare("small@champion", "small@candidate"), "MLflow: "),
    ],
)  # fmt: skip
def test_a_server_that_is_not_there_is_one_line(
    variable: str, call: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, f"http://127.0.0.1:{port}" + ("/api" if variable.startswith("PREFECT") else ""))
    with pytest.raises(attar.AttarError) as refused:
        call(tmp_path)
    [line] = refused.value._render_traceback_()
    assert line.startswith("attar: ") and message in line and port in line
    assert not (tmp_path / "small").exists()
