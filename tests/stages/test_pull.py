"""Pulling: by alias, version or name; a version that is not what was registered never arrives."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.registry.artifacts.store import Store
from attar.registry.release.model_registry import register_model
from attar.registry.tracking.mlflow_home import open_client
from tests.databases import copy_database

RUNNER = CliRunner()


def write(folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "onnx" / "model.onnx_data").write_bytes(bytes(range(256)) * 64)


def registered(home: Path, database: Path) -> Path:
    """Fill a registry with two versions of `small`: 1 is the champion, 2 a candidate."""
    copy_database(database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for key, is_champion in (("first", True), ("second", False)):
            register_model(
                "small", key, write, metrics={}, params={}, tags={}, scratch=home / "scratch", is_champion=is_champion
            )
    return home


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A registry that no test changes."""
    return registered(tmp_path_factory.mktemp("registry"), mlflow_database)


@pytest.fixture
def home(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_HOME", str(whole))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return whole


@pytest.fixture
def own_home(store: Store, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that its test may damage."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return registered(store.root, mlflow_database)


def version_folder(home: Path, version: str) -> Path:
    """Where a version's files lie in the registry."""
    client = open_client(home)
    source = client.get_model_version("small", version).source
    return Path(urlsplit(client.get_logged_model(source.removeprefix("models:/")).artifact_location).path)


def pull(*arguments: str | Path) -> tuple[int, str]:
    done = RUNNER.invoke(app, ["pull", *map(str, arguments)])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) <= 1, done.stderr
    return done.exit_code, lines[0] if lines else done.stdout


@pytest.mark.parametrize("reference", ["small", "small@champion", "small@candidate", "small/1", "models:/small/2"])
def test_a_version_is_pulled_by_name_alias_or_number(home: Path, tmp_path: Path, reference: str) -> None:
    code, pulled = pull(reference, tmp_path / "deep" / "dest")
    assert code == 0 and f"{reference} is in" in pulled
    names = {path.name for path in (tmp_path / "deep" / "dest").iterdir()}
    assert names == {"MLmodel", "onnx", "SHA256SUMS", "byte-ranges.json"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["dest"], "nothing is left beside it"


def write_forms(folder: Path) -> None:
    write(folder)
    (folder / "README.md").write_text("A card.")
    for name in ("gguf-q8_0", "onnx-int8", "model"):
        (folder / name).mkdir()
        (folder / name / "weights").write_bytes(name.encode() * 100)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A registry with a version of several forms."""
    home = tmp_path_factory.mktemp("several")
    copy_database(mlflow_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        scratch = home / "scratch"
        register_model("all", "key", write_forms, metrics={}, params={}, tags={}, scratch=scratch, is_champion=True)
    return home


def test_a_form_is_pulled_alone(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(several))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pull("all@champion", tmp_path / "dest", "--form", "gguf")[0] == 0
    pulled = {
        path.relative_to(tmp_path / "dest").as_posix() for path in (tmp_path / "dest").rglob("*") if path.is_file()
    }
    assert pulled == {"gguf-q8_0/weights", "README.md", "SHA256SUMS"}
    assert pull("all", tmp_path / "graph", "--form", "onnx")[0] == 0, "a whole name goes before a beginning"
    assert (tmp_path / "graph" / "onnx" / "model.onnx_data").is_file()
    code, line = pull("all", tmp_path / "none", "--form", "openvino")
    assert code == 2 and line == "attar: all version 1: no form 'openvino'; it has gguf-q8_0, model, onnx, onnx-int8"
    assert pull("all", tmp_path / "none", "--form", "o")[1].startswith(
        "attar: all version 1: 'o' could be onnx, onnx-int8"
    )
    assert not (tmp_path / "none").exists()


def test_a_form_that_was_tampered_with_never_arrives(own_home: Path, tmp_path: Path) -> None:
    flip_byte(version_folder(own_home, "1"))
    code, line = pull("small@champion", tmp_path / "dest", "--form", "onnx")
    assert code == 1 and "onnx/model.onnx_data is not what was registered" in line
    assert not (tmp_path / "dest").exists()


def test_an_empty_folder_is_filled_and_one_with_other_files_refused(home: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    dest.mkdir()
    assert pull("small", dest)[0] == 0
    (dest / "notes.txt").write_text("mine")
    before = sorted(dest.rglob("*"))
    code, line = pull("small@candidate", dest)
    problem = "holds notes.txt, which no pull put there; move it away, or give another folder"
    assert code == 2 and line == f"attar: {dest} {problem}"
    (dest / "SHA256SUMS").write_text(f"{'0' * 64}  notes.txt\n")
    code, line = pull("small@candidate", dest)
    problem = "is not empty; give a folder that is, that does not exist, or that an earlier pull filled"
    assert code == 2 and line == f"attar: {dest} {problem}"
    assert sorted(dest.rglob("*")) == before


def flip_byte(folder: Path) -> None:
    weights = folder / "onnx" / "model.onnx_data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)


def flip_byte_and_list(folder: Path) -> None:
    flip_byte(folder)
    from attar.registry.release.checksums import write_checksums

    write_checksums(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_byte, "onnx/model.onnx_data is not what was registered: its sha256 differs"),
        (flip_byte_and_list, "SHA256SUMS is not the list that was registered"),
        (lambda folder: (folder / "MLmodel").unlink(), "MLmodel is missing"),
        (lambda folder: (folder / "extra.py").write_text("print()"), "extra.py was not registered"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is not the list that was registered"),
    ],
)
def test_a_version_that_was_tampered_with_never_arrives(own_home: Path, tmp_path: Path, damage, message: str) -> None:
    damage(version_folder(own_home, "1"))
    (tmp_path / "out").mkdir()
    code, line = pull("small@champion", tmp_path / "out" / "dest")
    assert code == 1
    assert line == f"attar: small@champion: version 1 in the registry is damaged: {message}"
    assert not list((tmp_path / "out").iterdir())
    assert pull("small/2", tmp_path / "out" / "dest")[0] == 0, "the other version is whole"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nobody", "nobody: no model of that name is registered; there are: small"),
        ("small@best", "small@best: no alias best; aliases: candidate (2), champion (1); versions: 1, 2"),
        ("small/7", "small/7: no version 7; aliases: candidate (2), champion (1); versions: 1, 2"),
        ("small@", "'small@' is no registered model; accepted: NAME, NAME@ALIAS, NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(home: Path, tmp_path: Path, reference: str, message: str) -> None:
    code, line = pull(reference, tmp_path / "dest")
    assert (code, line) == (2, f"attar: {message}")
    assert not (tmp_path / "dest").exists()


def test_a_version_without_checksums_is_refused(own_home: Path, tmp_path: Path) -> None:
    """As another tool registers it."""
    client = open_client(own_home)
    client.delete_model_version_tag("small", "1", "attar.checksums")
    code, line = pull("small/1", tmp_path / "dest")
    assert code == 1 and "version 1 has no recorded checksums; register it again" in line


def test_a_registry_that_does_not_answer_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, line = pull("small", tmp_path / "dest")
    assert code == 1 and line.startswith("attar: the MLflow registry at http://127.0.0.1:9 does not answer: ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "mlflow.db").write_text("this is no database")
    code, line = pull("small", tmp_path / "dest")
    assert code == 1 and "does not answer: " in line
    assert not (tmp_path / "dest").exists()
