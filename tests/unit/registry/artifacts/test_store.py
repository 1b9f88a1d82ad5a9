"""The store: whole or absent, verified on use, built once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from attar.registry.artifacts.disk_space import DiskFullError
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Slot, Store

SLOT = Slot(stage="make", version=1, config={"size": 3}, inputs={})


def write(text: str):
    def build(workdir: Path) -> DatasetArtifact:
        (workdir / "content" / "rows.jsonl").write_text(text)
        return DatasetArtifact.at(workdir / "content", num_rows=1)

    return build


def test_second_call_is_a_hit_and_does_not_build(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.get_or_build(SLOT, DatasetArtifact, "k1", write("a"))
    second = store.get_or_build(SLOT, DatasetArtifact, "k1", write("never written"))
    assert (first.is_hit, second.is_hit) == (False, True)
    assert second.artifact == first.artifact
    assert (second.artifact.path / "rows.jsonl").read_text() == "a"


def test_same_content_has_the_same_fingerprint_under_another_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.get_or_build(SLOT, DatasetArtifact, "k1", write("a")).artifact
    second = store.get_or_build(SLOT, DatasetArtifact, "k2", write("a")).artifact
    third = store.get_or_build(SLOT, DatasetArtifact, "k3", write("b")).artifact
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_a_build_that_fails_leaves_no_artifact_but_keeps_its_scratch(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(workdir: Path) -> DatasetArtifact:
        (workdir / "content" / "half.bin").write_text("half")
        (workdir / "checkpoint").write_text("step 7")
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        store.get_or_build(SLOT, DatasetArtifact, "k1", fail)
    assert not store.holds("make", "k1")
    seen = {}

    def resume(workdir: Path) -> DatasetArtifact:
        seen["checkpoint"] = (workdir / "checkpoint").read_text()
        seen["content"] = list((workdir / "content").iterdir())
        return write("whole")(workdir)

    store.get_or_build(SLOT, DatasetArtifact, "k1", resume)
    assert seen == {"checkpoint": "step 7", "content": []}, "scratch continues, half-written content does not"
    assert not (tmp_path / "work" / "k1").exists()


@pytest.mark.parametrize("damage", ["flip", "remove", "add"])
def test_damage_is_found_on_the_next_use_and_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = Store(tmp_path)
    artifact = store.get_or_build(SLOT, DatasetArtifact, "k1", write("precious")).artifact
    victim = artifact.path / "rows.jsonl"
    if damage == "flip":
        content = bytearray(victim.read_bytes())
        content[3] ^= 1
        victim.write_bytes(content)
    elif damage == "remove":
        victim.unlink()
    else:
        (artifact.path / "stray.txt").write_text("?")
    with caplog.at_level(logging.WARNING):
        outcome = store.get_or_build(SLOT, DatasetArtifact, "k1", write("precious"))
    assert not outcome.is_hit
    assert victim.read_text() == "precious"
    assert "damaged" in caplog.text and "k1" in caplog.text


def test_forced_build_replaces_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get_or_build(SLOT, DatasetArtifact, "k1", write("old"))

    def fail(workdir: Path) -> DatasetArtifact:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        store.get_or_build(SLOT, DatasetArtifact, "k1", fail, is_forced=True)
    assert (store.load("make", "k1").path / "rows.jsonl").read_text() == "old"
    store.get_or_build(SLOT, DatasetArtifact, "k1", write("new"), is_forced=True)
    assert (store.load("make", "k1").path / "rows.jsonl").read_text() == "new"


def test_a_stage_that_returns_another_kind_is_our_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="declared ModelArtifact"):
        Store(tmp_path).get_or_build(SLOT, ModelArtifact, "k1", write("a"))  # type: ignore[arg-type]


def test_full_disk_is_told_before_the_build_when_the_size_is_known(tmp_path: Path) -> None:
    slot = Slot(stage="make", version=1, config={}, inputs={}, expected_bytes=1 << 60)
    with pytest.raises(DiskFullError, match=r"about 1,152,921,504,607 MB were needed, [\d,]+ MB are free"):
        Store(tmp_path).get_or_build(slot, DatasetArtifact, "k1", write("a"))
    assert not (tmp_path / "work" / "k1").exists()


def test_a_write_that_fails_for_space_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses the write (file size limit), as it does on a full disk or quota."""
    queue: multiprocessing.Queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_write_too_much, args=(tmp_path, queue))
    child.start()
    message = queue.get(timeout=30)
    child.join()
    assert "no space for the make artifact" in message
    assert not list(tmp_path.glob("store/*/*"))
    assert not (tmp_path / "work" / "k1").exists()


def _write_too_much(root: Path, queue: multiprocessing.Queue) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    def build(workdir: Path) -> DatasetArtifact:
        with (workdir / "content" / "big.bin").open("wb") as stream:
            stream.write(b"x" * 100_000)
        return DatasetArtifact.at(workdir / "content")

    try:
        Store(root).get_or_build(SLOT, DatasetArtifact, "k1", build)
        queue.put("it was written")
    except DiskFullError as error:
        queue.put(str(error))


def test_two_processes_that_need_one_artifact_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    children = [context.Process(target=_build_together, args=(tmp_path, barrier, queue)) for _ in range(2)]
    for child in children:
        child.start()
    hits = sorted(queue.get(timeout=30) for _ in children)
    for child in children:
        child.join()
    assert hits == [False, True]
    assert len((tmp_path / "builders").read_text().split()) == 1


def _build_together(root: Path, barrier, queue) -> None:
    def build(workdir: Path) -> DatasetArtifact:
        with (root / "builders").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return write("a")(workdir)

    barrier.wait()
    queue.put(Store(root).get_or_build(SLOT, DatasetArtifact, "k1", build).is_hit)


def test_find_takes_the_start_of_a_key_and_refuses_doubt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get_or_build(SLOT, DatasetArtifact, "abc1", write("a"))
    store.get_or_build(SLOT, DatasetArtifact, "abd2", write("b"))
    assert store.find("abc").key == "abc1"
    with pytest.raises(ValueError, match="2 match"):
        store.find("ab")
    with pytest.raises(ValueError, match="0 match"):
        store.find("zz")
