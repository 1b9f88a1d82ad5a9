"""Artifacts through an object store: whole or not there, verified on the way in, two uploads at once told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.shared_store import VARIABLE, fetch, share
from attar.registry.artifacts.store import CorruptArtifactError, Slot, Store

KEY = "a" * 64


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty store; an S3 of this process needs `pip install 'attar[s3]' 'moto[server]'`."""
    if request.param == "folder":
        monkeypatch.setenv(VARIABLE, (tmp_path / "shared").as_uri())
        yield "folder"
        return
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (
        (VARIABLE, "s3://artifacts/attar"), ("MLFLOW_S3_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "attar"),
        ("AWS_SECRET_ACCESS_KEY", "attar"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="artifacts")
    yield "s3"
    server.stop()


def make(store: Store, text: str = "rows") -> DatasetArtifact:
    def build(workdir: Path) -> DatasetArtifact:
        (workdir / "content" / "logprobs").mkdir()
        (workdir / "content" / "rows.jsonl").write_text(text)
        (workdir / "content" / "logprobs" / "shard-00000").write_bytes(b"1")
        return DatasetArtifact.at(workdir / "content", name="rows", num_rows=1)

    slot = Slot(stage="record", version=1, config={}, inputs={})
    return store.get_or_build(slot, DatasetArtifact, KEY, build, is_forced=True).artifact


def test_what_one_machine_shares_another_has(shared: str, tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    assert not fetch(second, "record", KEY), "nothing is there yet"
    made = make(first)
    share(first, made)
    share(first, made)  # once is enough
    assert fetch(second, "record", KEY) and fetch(second, "record", KEY)
    copied = second.load("record", KEY)
    second.verify(copied)
    assert (copied.fingerprint, dict(copied.facts)) == (made.fingerprint, dict(made.facts))
    assert not list((second.root / "work").iterdir()), "nothing is left aside"
    newer = make(first, "other rows")
    share(first, newer, is_forced=True)
    assert fetch(second, "record", KEY) and second.load("record", KEY).fingerprint == made.fingerprint
    assert fetch(second, "record", KEY, is_forced=True)
    assert second.load("record", KEY).fingerprint == newer.fingerprint


def test_what_is_damaged_there_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, (tmp_path / "shared").as_uri())
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    share(first, make(first))
    [rows] = (tmp_path / "shared").rglob("rows.jsonl")
    rows.write_text("raws")
    with pytest.raises(CorruptArtifactError, match="rows.jsonl has changed since it was sealed"):
        fetch(second, "record", KEY)
    assert not second.holds("record", KEY) and not list((second.root / "work").iterdir())
    [manifest] = (tmp_path / "shared").rglob("manifest.json")
    manifest.unlink()
    assert not fetch(second, "record", KEY), "files alone are an upload that did not end"
    manifest.write_text(json.dumps({"seal": None}))
    with pytest.raises(CorruptArtifactError, match="has no sealed manifest.json"):
        fetch(second, "record", KEY)


def test_without_an_address_nothing_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    store = Store(tmp_path)
    made = make(store)
    share(store, made)
    assert fetch(store, "record", KEY) and not fetch(store, "record", "b" * 64)
    monkeypatch.setenv(VARIABLE, "bucket/folder")
    with pytest.raises(ValueError, match=f"{VARIABLE} is 'bucket/folder'; accepted: an address, such as s3://"):
        share(store, made)
