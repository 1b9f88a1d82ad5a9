"""Rows that come in: every source gives rows of one shape."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.measured_data import measured_rows, plain_text
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data


def test_rows_from_jsonl_parquet_and_generated_tasks(store: Store, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    records = [{"q": "Pick", "a": 1, "options": ["x", "y"]}, {"q": "Pick", "a": "B", "options": ["x", "y"]}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    pyarrow.parquet.write_table(pyarrow.table({"q": ["Say"], "a": ["hi"]}), tmp_path / "r.parquet")
    columns = {"question_field": "q", "answer_field": "a", "choices_field": "options", "heldout_fraction": 0.0}

    def rows(source: str, **options):
        config = IngestDataConfig(source=source, **options)
        return read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")

    choices = rows(f"jsonl:{tmp_path / 'r.jsonl'}", **columns)
    assert [(row.answer, row.answer_index, row.verifier) for row in choices] == [("y", 1, "choice")] * 2
    [lines] = rows(f"parquet:{tmp_path / 'r.parquet'}", **columns)
    assert (lines.question, lines.answer, lines.choices) == ("Say", "hi", [])
    sums = rows("reasoning_gym:chain_sum,basic_arithmetic", max_rows=8, heldout_fraction=0.25)
    assert len(sums) == 8 and {row.verifier for row in sums} == {"number"}
    assert sum(row.split == "heldout" for row in sums) == 2
    assert sums == rows("reasoning_gym:chain_sum,basic_arithmetic", max_rows=8, heldout_fraction=0.25)


def test_templates_give_rows_in_turn_with_a_verifier_each(store: Store) -> None:
    config = IngestDataConfig(source="template:addition,record,copying", max_rows=60, heldout_fraction=0.5)
    data = ingest_data.execute(config, NoInputs(), store).artifact
    rows = read_rows(data.path / "rows.jsonl")
    assert [row.verifier for row in rows[:3]] == ["number", "json_schema", "exact"]
    assert len({row.question for row in rows}) == 60 and {row.split for row in rows} == {"train", "choose", "heldout"}
    assert data.facts["name"] == "addition_record_copying"
    for source, message in (
        ("template:adition", "there is no template 'adition'. Did you mean 'addition'"),
        ("template:record,record", "names 'record' twice; accepted: each template once"),
    ):
        with pytest.raises(ValueError, match=message):
            ingest_data.execute(config.with_changes(source=source), NoInputs(), store)
    with pytest.raises(ValueError, match="max_rows is 0: say how many tasks to generate"):
        ingest_data.forecast(config.with_changes(max_rows=0), {})


def test_a_text_file_in_rows_holds_some_out_and_is_measured_on_those(store: Store, tmp_path: Path) -> None:
    lines = [f"Day {day}: the boat came in at dawn and left at noon.\n" for day in range(40)]
    (tmp_path / "story.txt").write_text("".join(lines))
    source = f"text:{tmp_path / 'story.txt'}"
    config = IngestDataConfig(source=source, words_a_row=30, heldout_fraction=0.25)
    data = ingest_data.execute(config, NoInputs(), store).artifact
    rows = read_rows(data.path / "rows.jsonl")
    assert "".join(row.text for row in rows) == "".join(lines), "nothing is lost, and the order stays"
    # three lines of twelve words are the first 30 or more
    assert [len(row.text.split()) for row in rows] == [36] * 13 + [12]
    heldout = [row.text for row in rows if row.split == "heldout"]
    assert len(heldout) == 4 and plain_text(data) == "\n\n".join(heldout)
    assert [row.text for row in measured_rows(data)] == heldout
    whole = ingest_data.execute(IngestDataConfig(source=source), NoInputs(), store).artifact
    assert plain_text(whole) == "".join(lines)
    with pytest.raises(ValueError, match="words_a_row is 33, but only text:PATH is cut into rows"):
        IngestDataConfig(source="reasoning_gym:chain_sum", words_a_row=33)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a"}', "row 0 has no column 'answer'. Known: question"),
        ('{"question": "a", "answer": "z", "choices": ["x", "y"]}', "answer 'z' is not one of its choices"),
        ('{"question": "a", "answer": 7, "choices": ["x", "y"]}', "answer 7 is not one of its choices"),
        ('{"question": "a", "answer": "b", "verifier": "numbr"}', "verifier 'numbr' is unknown. Did you mean 'number'"),
        ("{broken", "line 1 is not JSON"),
        ("", "gave no rows"),
    ],
)
def test_bad_rows_are_refused(store: Store, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ingest_data.execute(IngestDataConfig(source=f"jsonl:{path}"), NoInputs(), store)


def test_a_table_that_is_damaged_inside_is_refused_by_its_row(store: Store, tmp_path: Path) -> None:
    """Its end, which is read first and says that it is a table, is whole."""
    path = tmp_path / "rows.parquet"
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    with pytest.raises(ValueError, match=f"^parquet:{path} is damaged from row 0 on: ") as refusal:
        ingest_data.execute(IngestDataConfig(source=f"parquet:{path}"), NoInputs(), store)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"score": 10**400}, {"similarity": "score"}, "score is '1000"),
        ({"score": True}, {"similarity": "score"}, "score is 'True'; accepted: a number"),
        ({"score": "alike"}, {"similarity": "score"}, "score is 'alike'; accepted: a number"),
        ({"score": None}, {"similarity": "score"}, "score is 'None'; accepted: a number"),
        ({"ids": [True]}, {"positives": "ids"}, "ids is a boolean; accepted: text or a whole number"),
        ({"ids": [" "]}, {"positives": "ids"}, "ids is blank"),
        ({"ids": [["a"]]}, {"positives": "ids"}, "ids is a list; accepted: text or a whole number"),
        ({"ids": "a"}, {"positives": "ids"}, "ids is 'a'; accepted: a list of ids, one at least"),
    ],
)
def test_grades_and_ids_that_are_none_are_refused_by_row(
    store: Store, tmp_path: Path, row: dict, columns: dict[str, str], message: str
) -> None:
    rows = [{"question": "a plum", "answer": "a red plum", "score": 0.5, "ids": ["a"]}]
    rows.append({**rows[0], **row})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = IngestDataConfig(source=f"jsonl:{tmp_path / 'pairs.jsonl'}", columns=columns)
    with pytest.raises(ValueError, match=rf"line 2: row 1 {message}"):
        ingest_data.execute(config, NoInputs(), store)
