"""A newer version over an older copy: only the tensors that differ are moved, and the folder is that of a full pull, or stays."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.registry.artifacts.fingerprint import folder_digests
from attar.registry.artifacts.store import Store
from attar.registry.release.checksums import DamagedModelError
from attar.registry.release.delta import assembly
from attar.registry.release.delta.local_copy import LocalCopy, Pulled
from attar.registry.release.delta.unchanged import unchanged_copy
from attar.registry.release.model_registry import register_model
from attar.registry.release.pull import download_model, pull_version
from attar.registry.tracking.mlflow_home import open_client
from tests.databases import copy_database
from tests.killed import FORK

NUM_BLOCKS, CUT = 10, 6
GRAPH_BYTES = 3 << 20


def write(first_healed: int, note: str = "") -> Callable[[Path], None]:
    """Write a version whose blocks from `first_healed` on were trained."""

    def into(folder: Path) -> None:
        (folder / "model").mkdir(parents=True, exist_ok=True)
        generator, tensors = torch.Generator().manual_seed(0), {}
        for index in range(NUM_BLOCKS):
            tensors[f"layers.{index}.weight"] = torch.randn(128, 128, generator=generator) + float(
                index >= first_healed
            )
            tensors[f"layers.{index}.norm"] = torch.full((64,), float(index))
        save_file(tensors, folder / "model" / "model.safetensors")
        (folder / "graph.bin").write_bytes(bytes(GRAPH_BYTES) + note.encode())
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "README.md").write_text(f"A card. {note}")

    return into


def fill(home: Path) -> None:
    """Register version 1, pruned, and version 2: the same cut, healed behind it."""
    for key, first_healed in (("pruned", NUM_BLOCKS), ("healed", CUT)):
        options = {"metrics": {}, "params": {}, "tags": {}, "scratch": home / "scratch", "is_champion": True}
        register_model("small", key, write(first_healed, key), **options)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A registry that no test changes."""
    home = tmp_path_factory.mktemp("registry")
    copy_database(mlflow_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        fill(home)
    return home


@pytest.fixture
def home(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_HOME", str(filled))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return filled


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A pulled copy of version 1."""
    return download_model("small/1", tmp_path / "copy")


def is_full_pull(folder: Path, reference: str) -> bool:
    whole = download_model(reference, folder.parent / "whole")
    return folder_digests(folder) == folder_digests(whole)


def test_only_the_tensors_that_differ_are_moved(home: Path, copy: Path) -> None:
    done = CliRunner().invoke(app, ["pull", "small/2", str(copy)])
    assert done.exit_code == 0 and f"small/2 is in {copy}: version 2, 0.3 MB of 3.8 MB moved" in done.stdout.replace(
        "\n", ""
    )
    assert is_full_pull(copy, "small/2")
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".")] == []


def test_an_after_cut_healing_moves_at_most_six_tenths(home: Path, copy: Path) -> None:
    pulled = pull_version("small/2", copy)
    weights = (copy / "model" / "model.safetensors").stat().st_size
    healed = (NUM_BLOCKS - CUT) / NUM_BLOCKS * weights
    assert healed <= pulled.moved_bytes <= 0.6 * weights
    assert pulled.total_bytes == sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())


def test_an_unchanged_version_moves_nothing(home: Path, copy: Path) -> None:
    inode = copy.stat().st_ino
    pulled = pull_version("small/1", copy)
    assert pulled.moved_bytes == 0 and copy.stat().st_ino == inode
    assert str(pulled) == "version 1, unchanged"
    assert known(copy, "small/1") == known(copy, "models:/small/1") == pulled
    assert known(copy, "small/2") is known(copy, "small") is known(copy, "small/9") is known(copy, "none") is None
    (copy / "graph.bin").write_bytes(b"damaged")
    assert known(copy, "small/1") is None
    mended = pull_version("small/1", copy)
    assert 0 < mended.moved_bytes < mended.total_bytes and is_full_pull(copy, "small/1")


def known(folder: Path, reference: str) -> Pulled | None:
    copy = LocalCopy.of(folder)
    assert copy is not None
    return unchanged_copy(reference, copy)


def test_a_form_is_updated_alone(home: Path, tmp_path: Path) -> None:
    folder = download_model("small/1", tmp_path / "form", form="model")
    assert pull_version("small/1", folder, form="model").moved_bytes == 0
    pulled = pull_version("small/2", folder, form="model")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"README.md", "SHA256SUMS", "model/model.safetensors"}
    assert pulled.moved_bytes < 0.6 * pulled.total_bytes
    assert pull_version("small/2", folder).version == "2" and is_full_pull(folder, "small/2")


def test_a_copy_that_changed_behind_its_list_is_brought_whole(home: Path, copy: Path) -> None:
    """Its byte ranges promise tensors that are there no more."""
    weights = copy / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[10_000] ^= 1  # of the first block, which the newer version shares
    weights.write_bytes(content)
    pulled = pull_version("small/2", copy)
    assert pulled.moved_bytes > weights.stat().st_size and is_full_pull(copy, "small/2")


def test_a_damaged_version_leaves_the_copy_as_it_was(
    store: Store, mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_database(mlflow_database, store.root / "mlflow.db")
    fill(store.root)
    copy = download_model("small/1", tmp_path / "copy")
    before = folder_digests(copy)
    for weights in store.root.rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedModelError, match="model/model.safetensors is not what was registered"):
        pull_version("small/2", copy)
    for weights in store.root.rglob("graph.bin"):
        weights.unlink()
    with pytest.raises(DamagedModelError, match="graph.bin is missing"):
        pull_version("small/2", copy)
    assert folder_digests(copy) == before


def pull_until(moment: str, copy: Path) -> None:
    """Pull version 2 in a process that is killed at a moment."""
    from attar.registry.release import pull

    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "composing":
        blocks = assembly._blocks
        assembly._blocks = lambda files, name, run: blocks(files, name, run) if run.start == 0 else die()
    elif moment == "in place":
        pull.exchange_folder = die
    else:
        exchange_folder = pull.exchange_folder
        pull.exchange_folder = lambda whole, folder: (exchange_folder(whole, folder), die())
    pull_version("small/2", copy)


@pytest.mark.parametrize("moment", ["composing", "in place", "done"])
def test_a_killed_pull_leaves_the_old_or_the_new_and_the_next_completes(home: Path, copy: Path, moment: str) -> None:
    before = folder_digests(copy)
    process = FORK.Process(target=pull_until, args=(moment, copy))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (folder_digests(copy) == before) == (moment != "done")
    pulled = pull_version("small/2", copy)
    assert (pulled.moved_bytes == 0) == (moment == "done") and is_full_pull(copy, "small/2")
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".")] == []


def test_a_copy_between_two_steps_is_put_back(home: Path, copy: Path) -> None:
    """As a kill leaves it where the system cannot exchange two folders in one step."""
    os.rename(copy, copy.with_name(f".{copy.name}.former"))
    pulled = pull_version("small/2", copy)
    assert pulled.moved_bytes < pulled.total_bytes and is_full_pull(copy, "small/2")
    assert not copy.with_name(f".{copy.name}.former").exists()


@pytest.fixture
def served(mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """MLflow's own server in a process beside this, with the artifacts behind it."""
    home = tmp_path / "served"
    copy_database(mlflow_database, home / "mlflow.db")
    monkeypatch.setenv("ATTAR_HOME", str(home))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = FORK.Process(target=serve, args=(home, listening))
        process.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield home
        process.kill()
        process.join()


def serve(home: Path, listening: socket.socket) -> None:
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{home / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (home / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app as server
    from werkzeug.serving import make_server

    make_server("127.0.0.1", 0, server, threaded=True, fd=listening.fileno()).serve_forever()


def test_the_same_through_a_server(served: Path, tmp_path: Path) -> None:
    fill(served)
    assert update(tmp_path / "copy").moved_bytes < 600_000
    unchanged = known(tmp_path / "copy", "small")
    assert unchanged is not None and (unchanged.version, unchanged.moved_bytes) == ("2", 0)
    assert known(tmp_path / "copy", "small/1") is known(tmp_path / "copy", "nobody") is None


def update(folder: Path) -> Pulled:
    """Pull version 1, and version 2 over it."""
    assert pull_version("small/1", folder).moved_bytes > 3_000_000
    pulled = pull_version("small/2", folder)
    assert is_full_pull(folder, "small/2")
    return pulled


@pytest.fixture
def bucket(mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry whose versions lie in an S3 of this process: needs `pip install 'attar[s3]' 'moto[server]'`."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    home, server = tmp_path / "home", moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    copy_database(mlflow_database, home / "mlflow.db")
    for name, value in (
        ("ATTAR_HOME", str(home)),
        ("MLFLOW_S3_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "attar"),
        ("AWS_SECRET_ACCESS_KEY", "attar"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="versions")
    open_client(home).create_experiment("attar", artifact_location="s3://versions/attar")
    yield home
    server.stop()


def test_the_same_from_an_object_store(bucket: Path, tmp_path: Path) -> None:
    fill(bucket)
    assert update(tmp_path / "copy").moved_bytes < 600_000
