"""Shards of a node's work: every piece once, shares alike, and all of them or none gathered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attar.registry.artifacts.cost import Cost
from attar.registry.artifacts.handles import KINDS
from attar.registry.artifacts.kinds.shard_facts import Shard, ShardArtifact, check_complete
from attar.registry.release.collect import collect_garbage
from attar.registry.tracking.run_record import NodeRecord, RunRecord, run_records


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("num_pieces", [0, 1, 5, 6, 12, 31])
def test_every_piece_is_in_one_shard(count: int, num_pieces: int) -> None:
    own = [Shard(index, count).pieces(num_pieces) for index in range(count)]
    assert sorted(piece for pieces in own for piece in pieces) == list(range(num_pieces))
    assert all(own) or num_pieces < count, "none is left without work"


def test_pieces_in_the_order_of_their_length_make_shards_alike() -> None:
    """Of lengths 0, 1, 2, ... to an even number of rounds all shards have the same sum."""
    assert {sum(Shard(index, 4).pieces(32)) for index in range(4)} == {31 * 32 // 2 // 4}


def test_a_shard_has_a_key_of_its_own() -> None:
    keys = {Shard(index, count).key(node) for node in ("a", "b") for count in (1, 2, 3) for index in range(count)}
    assert len(keys) == 2 * (1 + 2 + 3)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_that_cannot_be_is_refused(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"shard index is {index}; accepted: 0 to {count - 1}")):
        Shard(index, count)


def test_more_shards_than_pieces_are_refused() -> None:
    Shard(0, 3).check(3, "pieces")
    with pytest.raises(ValueError, match="shards is 4, but the work comes in 3 pieces; accepted: 1 to 3"):
        Shard(0, 4).check(3, "pieces")


def test_all_shards_are_gathered_or_none() -> None:
    def shard(index: int, count: int) -> ShardArtifact:
        return ShardArtifact(Path(), key=Shard(index, count).key("node"))

    check_complete([shard(1, 2), shard(0, 2)], "node")
    for given in ([], [shard(0, 2)], [shard(0, 2), shard(0, 2)], [shard(0, 2), shard(1, 3)]):
        with pytest.raises(ValueError, match="shards of node"):
            check_complete(given, "node")
    assert KINDS["shard"] is ShardArtifact


def test_the_cost_of_shards_is_that_of_all_workers() -> None:
    spent = [
        {"build_seconds": 3.0, "cpu_seconds": 2.0, "peak_bytes": 1 << 50},
        {"build_seconds": 4.0, "cpu_seconds": 3.5, "peak_bytes": 7},
    ]
    cost = Cost(spent).so_far()
    assert 7.0 <= cost["build_seconds"] < 8.0 and 5.5 <= cost["cpu_seconds"] < 6.5 and cost["peak_bytes"] == 1 << 50


def test_shards_are_kept_until_they_are_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attar.registry.artifacts.store import Slot, Store

    monkeypatch.setattr("attar.registry.release.collect.registered_keys", set)
    store, key = Store(tmp_path), Shard(0, 2).key("node")

    def build(workdir: Path) -> ShardArtifact:
        (workdir / "content" / "rows").write_text("a row")
        return ShardArtifact.at(workdir / "content", shard_index=0, num_shards=2, num_pieces=2)

    store.get_or_build(Slot(stage="record", version=1, config={}, inputs={}), ShardArtifact, key, build)
    record = RunRecord(tmp_path / "runs" / "20260101-000000-x", "x", "", {"node": NodeRecord("record", {}, {})})
    record.update("node", shards=[key])
    assert run_records(tmp_path)[0].nodes["node"].shards == [key]
    assert collect_garbage(tmp_path, keep_runs=1, is_dry_run=False) == [] and store.holds("record", key)
    record.update("node", key="whole")
    assert [entry["key"] for entry in collect_garbage(tmp_path, keep_runs=1, is_dry_run=False)] == [key]
