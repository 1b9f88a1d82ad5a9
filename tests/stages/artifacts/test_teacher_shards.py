"""Shards of recorded candidates: small on disk, mapped when read, whole or refused by name."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.dataset.teacher_shards import (
    FOLDER,
    TeacherRecord,
    finished_shards,
    shard_name,
    write_candidates,
    write_shard,
)

Recorded = dict[str, tuple[torch.Tensor, torch.Tensor]]


def record(vocab_size: int, lengths: list[int], num_candidates: int = 64) -> Recorded:
    generator = torch.Generator().manual_seed(vocab_size)
    made = {}
    for index, length in enumerate(lengths):
        ids = torch.randint(0, vocab_size, (length, num_candidates), generator=generator)
        ids[0, 0] = vocab_size - 1
        logits = 3 * torch.randn(length, num_candidates + 1, generator=generator)
        made[f"{index:06d}"] = ids, logits.log_softmax(dim=-1)[:, 1:].sort(dim=-1, descending=True).values
    return made


def rows_of(recorded: Recorded) -> list[Row]:
    return [Row(id=name, recorded_in=shard_name(0)) for name in recorded]


@pytest.mark.parametrize(("vocab_size", "planes"), [(49_152, 260), (200_000, 276)])
def test_bytes_a_token_on_disk_stay_below_300(tmp_path: Path, vocab_size: int, planes: int) -> None:
    recorded = record(vocab_size, [60 + index for index in range(32)])
    write_shard(tmp_path, 0, rows_of(recorded), recorded)
    num_tokens = sum(len(ids) for ids, _ in recorded.values())
    on_disk = (tmp_path / FOLDER / shard_name(0)).stat().st_size / num_tokens
    assert planes <= on_disk < planes + 1, "offsets and row ids come to less than a byte a token"


@pytest.mark.parametrize("vocab_size", [49_152, 200_000])
def test_every_row_comes_back_as_it_was_recorded(tmp_path: Path, vocab_size: int) -> None:
    recorded = record(vocab_size, [3, 1, 40, 7])
    write_shard(tmp_path, 0, rows_of(recorded), recorded)
    reader = TeacherRecord(tmp_path)
    for row in reversed(rows_of(recorded)):
        ids, logprobs = reader.of(row)  # type: ignore[misc]
        assert ids.dtype == torch.int32 and logprobs.dtype == torch.float32
        assert torch.equal(ids.long(), recorded[row.id][0])
        torch.testing.assert_close(logprobs, recorded[row.id][1], atol=2**-9, rtol=2**-11)
    assert reader.of(Row(id="000000")) is None


def test_the_same_candidates_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_candidates(tmp_path / f"{name}.safetensors", record(49_152, [5, 9]))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_one_row_of_a_big_shard_costs_its_own_pages_only(tmp_path: Path) -> None:
    """Reading three rows of a shard of 50 MB: resident memory grows by less than 20 MB (the kernel maps up to 1 MB around a touched page)."""
    num_tokens = 190_000
    block = torch.arange(64).repeat(num_tokens, 1)
    logprobs = torch.full((64,), -5.0).repeat(num_tokens, 1)
    cuts = torch.arange(num_tokens).split(20)
    recorded = {f"{index:06d}": (block[cut], logprobs[cut]) for index, cut in enumerate(cuts)}
    (tmp_path / FOLDER).mkdir()
    path = tmp_path / FOLDER / shard_name(0)
    write_candidates(path, recorded)
    num_rows = len(recorded)
    del block, logprobs, recorded
    assert path.stat().st_size > 49e6
    reader = TeacherRecord(tmp_path)
    # the first row pays for the index of rows and for torch's own buffers
    reader.of(Row(id="000000", recorded_in=path.name))
    before = psutil.Process().memory_info().rss
    for index in (num_rows // 3, num_rows // 2, num_rows - 1):
        ids, _ = reader.of(Row(id=f"{index:06d}", recorded_in=path.name))  # type: ignore[misc]
        assert torch.equal(ids[0], torch.arange(64, dtype=torch.int32))
    assert psutil.Process().memory_info().rss - before < 20e6


def test_an_absent_or_damaged_shard_is_refused_by_name(tmp_path: Path) -> None:
    recorded = record(49_152, [30, 30])
    [row, _] = rows_of(recorded)
    with pytest.raises(ValueError, match=r"logprobs/shard-00000.safetensors is missing"):
        TeacherRecord(tmp_path).of(row)
    write_shard(tmp_path, 0, rows_of(recorded), recorded)
    path = tmp_path / FOLDER / shard_name(0)
    whole = path.read_bytes()
    for num_bytes in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(ValueError, match=r"logprobs/shard-00000.safetensors is damaged or incomplete"):
            TeacherRecord(tmp_path).of(row)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"shard-00000.safetensors has no row 000009"):
        TeacherRecord(tmp_path).of(row.with_changes(id="000009"))


def test_a_shard_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    save_file({"000000.ids": torch.zeros(3, 4)}, tmp_path / FOLDER / shard_name(0))
    with pytest.raises(ValueError, match=r"shard-00000.safetensors has an unknown form; accepted: compact-1"):
        TeacherRecord(tmp_path).of(Row(id="000000", recorded_in=shard_name(0)))


def test_a_shard_exists_once_its_rows_do(tmp_path: Path) -> None:
    recorded = record(49_152, [3])
    (tmp_path / FOLDER).mkdir()
    write_candidates(tmp_path / FOLDER / shard_name(0), recorded)
    assert finished_shards(tmp_path) == set(), "candidates alone are an interrupted shard"
    write_shard(tmp_path, 0, rows_of(recorded), recorded)
    assert finished_shards(tmp_path) == {0}
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {shard_name(0)}
