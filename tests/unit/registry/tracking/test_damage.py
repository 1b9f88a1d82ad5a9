"""Whatever damages a stored artifact, a run builds it again, and listing, showing and collecting say it in a line."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.manifest import CorruptArtifactError, read_manifest
from attar.registry.artifacts.store import Slot, Store
from attar.registry.release.collect import DamagedLineageError, collect_garbage
from attar.registry.tracking.run_record import NodeRecord, RunRecord, find_run, new_run_folder, open_runs, run_records

SLOT = Slot(stage="make", version=1, config={"size": 3}, inputs={})
KEY = "ab" * 32


def build(workdir: Path) -> DatasetArtifact:
    (workdir / "content" / "rows.jsonl").write_text("precious")
    (workdir / "content" / "card").mkdir()
    (workdir / "content" / "card" / "card.md").write_text("card")
    return DatasetArtifact.at(workdir / "content", num_rows=1)


def rewritten(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    return damage


def unsealed(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rewritten(**changes)(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({name: manifest[name] for name in manifest if name != "seal"}))

    return damage


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def replaced(name: str, kind: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        victim = folder / name
        aside = folder.parents[2] / "aside"
        shutil.move(victim, aside)
        if kind == "link":
            victim.symlink_to(aside)
        elif kind == "dead link":
            victim.symlink_to(folder / "nothing")
        elif kind == "pipe":
            os.mkfifo(victim)
        elif kind == "folder":
            victim.mkdir()
        elif kind == "file":
            victim.write_text("x")

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "manifest gone": lambda folder: (folder / "manifest.json").unlink(),
    "manifest empty": text(""),
    "manifest cut": lambda folder: os.truncate(folder / "manifest.json", 40),
    "manifest a list": text("[]"),
    "manifest a number": text("3"),
    "manifest no text": text(b"\xff\xfe\x00"),
    "manifest deep": text("[" * 100_000),
    "manifest a long number": text("9" * 10_000),
    "manifest half an emoji": rewritten(stage="\ud83d"),
    "manifest a pipe": replaced("manifest.json", "pipe"),
    "manifest a link": replaced("manifest.json", "link"),
    "manifest a folder": replaced("manifest.json", "folder"),
    "facts changed": rewritten(facts={"num_rows": 2}),
    "facts a list": unsealed(facts=[1]),
    "a fact a mapping": unsealed(facts={"num_rows": {}}),
    "fingerprint changed": unsealed(fingerprint="0" * 64),
    "unknown kind": unsealed(kind="poem"),
    "another kind": unsealed(kind="model"),
    "kind a number": unsealed(kind=3),
    "another key": unsealed(key="cd" * 32),
    "another stage": unsealed(stage="bake"),
    "files without digests": unsealed(files={"rows.jsonl": {}}),
    "files that lead out": unsealed(files={"../../x": {"sha256": "", "bytes": 0}}),
    "inputs that lead out": unsealed(inputs={"model": [{"stage": "..", "kind": "model", "key": "..", "fingerprint": ""}]}),
    "inputs of another form": unsealed(inputs={"model": ["x"]}),
    "size a text": unsealed(num_bytes="many"),
    "created changed": rewritten(created="yesterday"),
    "content gone": lambda folder: shutil.rmtree(folder / "content"),
    "content a link": replaced("content", "link"),
    "content a file": replaced("content", "file"),
    "file gone": lambda folder: (folder / "content" / "rows.jsonl").unlink(),
    "file flipped": lambda folder: (folder / "content" / "rows.jsonl").write_text("preciouS"),
    "file longer": lambda folder: (folder / "content" / "rows.jsonl").write_text("precious!"),
    "file a link to the same": replaced("content/rows.jsonl", "link"),
    "file a dead link": replaced("content/rows.jsonl", "dead link"),
    "file a pipe": replaced("content/rows.jsonl", "pipe"),
    "file a folder": replaced("content/rows.jsonl", "folder"),
    "folder a link to the same": replaced("content/card", "link"),
    "a file too many": lambda folder: (folder / "content" / "stray").write_text("?"),
    "a link too many": lambda folder: (folder / "content" / "stray").symlink_to("/nowhere"),
    "a name that is no text": lambda folder: Path(os.fsdecode(bytes(folder / "content") + b"/\xff")).write_text("?"),
    "the place a file": replaced("", "file"),
    "the place a link to the same": replaced("", "link"),
    "the place a dead link": replaced("", "dead link"),
    "the place a pipe": replaced("", "pipe"),
    "the place empty": replaced("", "folder"),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module", autouse=True)
def registry(mlflow_database: Path) -> Iterator[None]:
    """One registry without a model for all: none of them writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_database}")
        yield


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_builds_again_what_is_damaged(damage: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(home)
    before = store.get_or_build(SLOT, DatasetArtifact, KEY, build).artifact
    DAMAGES[damage](before.path.parent)
    with caplog.at_level(logging.WARNING):
        again = store.get_or_build(SLOT, DatasetArtifact, KEY, build)
    assert not again.is_hit and again.artifact == before
    assert (before.path / "rows.jsonl").read_text() == "precious" and not before.path.parent.is_symlink()
    assert "damaged" in caplog.text and caplog.text.count("\n") == 1
    store.verify(again.artifact)
    assert store.get_or_build(SLOT, DatasetArtifact, KEY, build).is_hit


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("file flipped", "another kind")])
def test_list_show_and_gc_tell_it_in_a_line(damage: str, home: Path) -> None:
    """A file that changed in place is told where it is read, and a kind where another is wanted: by a run."""
    store = Store(home)
    DAMAGES[damage](store.get_or_build(SLOT, DatasetArtifact, KEY, build).artifact.path.parent)
    assert not store.holds("make", KEY), "a plan does not count on it"
    listed = CliRunner().invoke(app, ["list", "artifacts"])
    assert listed.exit_code == 0 and "damaged" in listed.stdout, listed.output
    shown = CliRunner().invoke(app, ["show", KEY[:8]])
    assert (shown.exit_code, shown.stderr.count("\n")) == (2, 1) and "damaged" in shown.stderr, shown.output
    removed = collect_garbage(home, keep_runs=3, is_dry_run=False)
    assert [entry["key"] for entry in removed] == [KEY] and not os.path.lexists(home / "store" / "make" / KEY)


def test_an_artifact_without_a_seal_is_one_of_an_earlier_version(home: Path) -> None:
    store = Store(home)
    unsealed()(store.get_or_build(SLOT, DatasetArtifact, KEY, build).artifact.path.parent)
    assert store.get_or_build(SLOT, DatasetArtifact, KEY, build).is_hit


@pytest.mark.parametrize("name", ["store/make", "work", f"work/{KEY}", "locks", f"locks/{KEY}.lock"])
def test_what_stands_in_the_way_of_a_folder_goes(name: str, home: Path) -> None:
    path = home / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith(".lock") else path.write_text("in the way")
    assert not Store(home).get_or_build(SLOT, DatasetArtifact, KEY, build).is_hit


def test_nothing_goes_while_it_cannot_be_told_what_a_damaged_artifact_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(home)
    for key in ("aa" * 32, KEY):
        store.get_or_build(SLOT, DatasetArtifact, key, build)
    DAMAGES["manifest cut"](home / "store" / "make" / KEY)
    monkeypatch.setattr("attar.registry.release.collect.registered_keys", lambda: {KEY})
    with pytest.raises(DamagedLineageError, match="is needed, but damaged"):
        collect_garbage(home, keep_runs=0, is_dry_run=False)
    assert store.holds("make", "aa" * 32)


def test_a_build_that_leaves_a_link_is_no_artifact(home: Path) -> None:
    def linked(workdir: Path) -> DatasetArtifact:
        (workdir / "content" / "rows.jsonl").symlink_to("/dev/null")
        return DatasetArtifact.at(workdir / "content")

    with pytest.raises(CorruptArtifactError, match="rows.jsonl is no regular file"):
        Store(home).get_or_build(SLOT, DatasetArtifact, KEY, linked)
    assert not Store(home).holds("make", KEY)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"id": 3}', "[" * 100_000, '{"id": "a", "nodes": {"x": {"stage": 3}}}']
)
def test_a_damaged_record_of_a_run_is_told_and_costs_no_other(content: str, home: Path) -> None:
    whole = RunRecord(new_run_folder(home, "whole"), "whole", "0", {"a": NodeRecord("make", {}, {}, key=KEY)})
    whole.save()
    broken = home / "runs" / "19990101-000000-broken-0000"
    broken.mkdir()
    (broken / "run.json").write_text(content)
    assert [record.id for record in run_records(home)] == [whole.id] == [record.id for record in open_runs(home)]
    with pytest.raises(ValueError, match="is damaged") as refused:
        find_run(home, "1999")
    assert "\n" not in str(refused.value)
    assert find_run(home, "latest").id == whole.id


def test_a_manifest_is_not_read_through_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "make" / KEY / "content").mkdir(parents=True)
    os.mkfifo(tmp_path / "make" / KEY / "manifest.json")
    with pytest.raises(CorruptArtifactError, match="no regular file"):
        read_manifest(tmp_path / "make" / KEY)
