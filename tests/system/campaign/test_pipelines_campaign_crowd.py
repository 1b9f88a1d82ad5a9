"""Several runs of `tiny` at once in one home: each artifact is built once, every run ends, and all say the same."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.system.campaign.ledger import note_scenario
from tests.system.campaign.lives import Life, fingerprints, prefect_server, rows_of, write_tiny

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, 4])
def test_runs_at_once_build_each_artifact_once(count: int, tmp_path: Path, clean_environment: dict[str, str]) -> None:
    write_tiny(tmp_path)
    home = tmp_path / "home"
    with prefect_server(tmp_path / "server") as served:
        own = clean_environment | served | {"PYTHONPATH": os.getcwd(), "ATTAR_HOME": str(home)}
        lives = [Life(own, tmp_path) for _ in range(count)]
        for life in lives:
            assert life.ends_within(1500) and life.process.returncode == 0, life.printed()[-3000:]
            assert "Traceback" not in life.printed()
            assert not life.orphans()
    results = [life.result() for life in lives]
    assert all(fingerprints(result) == fingerprints(results[0]) for result in results)
    built = Counter(
        name for result in results for name, node in result["nodes"].items() if node["state"] == "Completed"
    )
    assert built == Counter(results[0]["nodes"].keys()), "each node is built by one run, and reused by the others"
    [[num_versions]] = rows_of(home / "mlflow.db", "select count(*) from model_versions where name = 'tiny'")
    assert num_versions == 1
    note_scenario(f"{count} runs at once")


@pytest.mark.parametrize("home_path", ["file", "not-ours"])
def test_a_home_that_cannot_be_written_is_one_line(
    home_path: str, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    write_tiny(tmp_path)
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home" if home_path == "file" else Path("/sys/attar")
    life = Life(clean_environment | {"PYTHONPATH": os.getcwd(), "ATTAR_HOME": str(home)}, tmp_path)
    assert life.ends_within(120) and life.process.returncode == 2
    assert life.printed().count("\n") == 1 and life.printed().startswith(f"attar: ATTAR_HOME {home}: ")
