"""Pairs and questions that no encoder could get wrong, or none right, are refused: a figure of them would say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.rows import Row, write_rows
from attar.stages.evaluate.retrieval import read_task


def data_of(folder: Path, *rows: Row) -> DatasetArtifact:
    write_rows(folder / "rows.jsonl", rows)
    return DatasetArtifact.at(folder, name="pairs", num_rows=len(rows))


def test_pairs_of_one_grade_have_no_order(tmp_path: Path) -> None:
    rows = [Row(str(index), f"a plum {index}", "a red plum", similarity=0.5) for index in range(3)]
    with pytest.raises(ValueError, match="task pairs: all 3 pairs have similarity 0.5, so that none is closer"):
        read_task(data_of(tmp_path, *rows), "pairs", None, 0, "heldout")
    rows[1] = rows[1].with_changes(similarity=0.25)
    assert read_task(data_of(tmp_path, *rows), "pairs", None, 0, "heldout").similarities == [0.5, 0.25, 0.5]


def test_a_single_text_is_no_task_to_find(tmp_path: Path) -> None:
    rows = [Row(str(index), f"question {index}", "the answer") for index in range(3)]
    with pytest.raises(ValueError, match="task code: there is a single text to find, which every encoder finds"):
        read_task(data_of(tmp_path, *rows), "code", None, 0, "heldout")
    queries = [Row("1", "where", positives=["a"])]
    with pytest.raises(ValueError, match="there is a single text to find"):
        read_task(data_of(tmp_path, *queries), "code", {"a": "here"}, 0, "heldout")
    assert len(read_task(data_of(tmp_path, *queries), "code", {"a": "here", "b": "there"}, 0, "heldout").texts[1]) == 2
