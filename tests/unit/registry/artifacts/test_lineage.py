"""Lineage: the tree behind an artifact, and what must be kept for it."""

from __future__ import annotations

from pathlib import Path

from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.lineage import needed_keys, trace
from attar.registry.artifacts.store import Slot, Store


def make(store: Store, key: str, *inputs: DatasetArtifact) -> DatasetArtifact:
    entries = [
        {"stage": "make", "kind": parent.kind, "key": parent.key, "fingerprint": parent.fingerprint}
        for parent in inputs
    ]
    slot = Slot(stage="make", version=1, config={"key": key}, inputs={"parts": entries} if entries else {})

    def build(workdir: Path) -> DatasetArtifact:
        (workdir / "content" / "rows.jsonl").write_text(key)
        return DatasetArtifact.at(workdir / "content")

    return store.get_or_build(slot, DatasetArtifact, key, build).artifact


def test_trace_and_needed_keys_follow_every_input(tmp_path: Path) -> None:
    store = Store(tmp_path)
    flour, water, salt = (make(store, name) for name in ("flour", "water", "salt"))
    dough = make(store, "dough", flour, water)
    bread = make(store, "bread", dough, salt)
    make(store, "stone")
    tree = trace(store, bread)
    assert [parent.key for parent in tree.inputs] == ["dough", "salt"]
    assert [parent.key for parent in tree.inputs[0].inputs] == ["flour", "water"]
    assert needed_keys(store, [bread]) == {"bread", "dough", "salt", "flour", "water"}


def test_a_collected_ancestor_is_told_as_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    flour = make(store, "flour")
    dough = make(store, "dough", flour)
    assert store.remove(flour) > 0
    [ancestor] = trace(store, dough).inputs
    assert (ancestor.key, ancestor.is_present) == ("flour", False)
