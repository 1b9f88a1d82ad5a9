"""Byte ranges: they fill a file without a gap, a tensor is one, and what is no whole safetensors file is cut evenly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attar.registry.release.delta.byte_ranges import (
    FIXED_BYTES,
    RANGES,
    file_ranges,
    folder_ranges,
    read_ranges,
    tensor_lengths,
    write_ranges,
)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed": (40, 8), "norm": (8,), "empty": (0, 4), "weight": (8, 8)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_ranges_fill_a_file_and_each_tensor_is_one(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    content, ranges = path.read_bytes(), file_ranges(path)
    pieces = [content[part.start : part.start + part.num_bytes] for part in ranges]
    assert b"".join(pieces) == content
    assert [hashlib.sha256(piece).hexdigest() for piece in pieces] == [part.sha256 for part in ranges]
    digests = {hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors.values() if tensor.numel()}
    assert {part.sha256 for part in ranges[1:]} == digests, "one a tensor, behind the header"


def test_a_tensor_keeps_its_digest_in_another_file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "whole.safetensors")
    save_file({"renamed": tensors["weight"]}, tmp_path / "part.safetensors")
    known = {part.sha256 for part in file_ranges(tmp_path / "whole.safetensors")}
    assert file_ranges(tmp_path / "part.safetensors")[1].sha256 in known


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"data_offsets": [8, 12]}},
        {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        ["a"],
    ],
    ids=["a gap", "past the end", "no offsets", "no mapping"],
)
def test_a_file_that_is_no_safetensors_is_cut_evenly(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    assert tensor_lengths(path) is None
    assert [(part.start, part.num_bytes) for part in file_ranges(path)] == [(0, path.stat().st_size)]
    (tmp_path / "weights.bin").write_bytes(bytes(2 * FIXED_BYTES + 3))
    assert [part.num_bytes for part in file_ranges(tmp_path / "weights.bin")] == [FIXED_BYTES, FIXED_BYTES, 3]
    (tmp_path / "none").touch()
    assert file_ranges(tmp_path / "none") == []


def test_written_ranges_are_read_back_and_odd_ones_are_none(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    expected = folder_ranges(tmp_path)
    write_ranges(tmp_path)
    assert read_ranges((tmp_path / RANGES).read_text()) == expected
    for text in ("", "[]", '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": [[-1, ""]]}}', '{"format": 1}'):
        assert read_ranges(text) == {}
