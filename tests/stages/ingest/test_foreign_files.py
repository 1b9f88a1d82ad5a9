"""Names that another library would read as files of this machine: a registered version's source, a data set of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts import confinement
from attar.registry.artifacts.store import Store
from attar.registry.release.pull import download_model
from attar.registry.tracking.mlflow_home import open_client
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data


@pytest.fixture
def workspace(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv(confinement.VARIABLE, "")  # put back afterwards
    confinement.confine([tmp_path / "work"], store.root)
    return tmp_path / "work"


def test_a_version_that_lies_among_the_servers_own_is_not_downloaded(workspace: Path, store: Store) -> None:
    """Whoever reaches the registry may say where a version lies."""
    for name in ("services", "mlartifacts"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "MLmodel").write_text("flavors: {}")
    client = open_client(store.root)
    client.create_registered_model("one")
    for name in ("services", "mlartifacts"):
        client.create_model_version("one", source=(store.root / name).as_uri())
    with pytest.raises(ValueError, match="lies outside the workspace"):
        download_model("models:/one/1", workspace / "taken", needs_checksums=False)
    assert not (workspace / "taken").exists()
    download_model("models:/one/2", workspace / "taken", needs_checksums=False)


@pytest.mark.parametrize("name", [".attar/services", "team/rows", "../work"])
def test_a_data_set_of_the_hub_is_no_folder_here(workspace: Path, store: Store, name: str) -> None:
    (workspace / name).mkdir(parents=True, exist_ok=True)
    (workspace / name / "rows.jsonl").write_text('{"question": "a", "answer": "b"}')
    with pytest.raises(ValueError, match="hub:"):
        ingest_data.execute(IngestDataConfig(source=f"hub:{name}@main"), NoInputs(), store)
