"""Digests: content decides, evidence does not."""

from __future__ import annotations

from pathlib import Path

from attar.registry.artifacts.fingerprint import content_fingerprint, digest, folder_digests


def test_records_do_not_change_what_a_thing_is(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    before = content_fingerprint(folder_digests(tmp_path))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "metrics.jsonl").write_text("took 3 s")
    assert content_fingerprint(folder_digests(tmp_path)) == before
    (tmp_path / "weights").write_text("v")
    assert content_fingerprint(folder_digests(tmp_path)) != before


def test_a_moved_file_is_another_thing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("w")
    before = content_fingerprint(folder_digests(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_fingerprint(folder_digests(tmp_path)) != before


def test_digest_ignores_the_order_of_keys_but_not_of_lists() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
