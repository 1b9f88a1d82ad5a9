"""Rows of odd types: each is right, or refused in one line that names file and row; never the word None, never another choice."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.runtime.progress import Event, Note, listen

GOOD = '{"question": "q", "answer": "a"}'


def ingested(store: Store, source: str, **options: Any) -> list[Row]:
    config = IngestDataConfig(source=source, heldout_fraction=0.0, **options)
    return read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")


def jsonl(store: Store, folder: Path, content: str | bytes, **options: Any) -> list[Row]:
    path = folder / "r.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ingested(store, f"jsonl:{path}", **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"que\\ud83dstion\\n": 1, "%s": 2}' % ("x" * 900), "row 1 has no column 'question'. Known: x"),
        ("5", "line 2 is a number; accepted: one object a line"),
        ("null", "line 2 is null"),
        ('"text"', "line 2 is text"),
        ('[{"question": "q"}]', "line 2 is a list"),
        ('{"text": null}', "line 2: row 1 text is null"),
        ('{"text": 5}', "row 1 text is a number; accepted: text"),
        ('{"text": ["a b"]}', "row 1 text is a list"),
        ('{"text": {"a": 1}}', "row 1 text is a mapping"),
        ('{"question": null, "answer": "x"}', "row 1 question is null"),
        ('{"question": "q", "answer": null}', "row 1 answer is null"),
        ('{"question": "q", "answer": NaN}', "row 1 answer is NaN"),
        ('{"question": "q", "answer": Infinity}', "row 1 answer is infinity"),
        ('{"question": "q", "answer": " "}', "row 1 answer is blank"),
        ('{"question": "\\u200b \\ufeff", "answer": "a"}', "row 1 question is blank"),
        ('{"question": 7, "answer": "a"}', "row 1 question is a number; accepted: text"),
        ('{"question": {}, "answer": []}', "row 1 question is a mapping"),
        ('{"question": "q", "answer": ["a"]}', "row 1 answer is a list"),
        ('{"question": "q", "answer": true}', "row 1 answer is a boolean"),
        ('{"question": "q", "answer": 1e999999}', "row 1 answer is a number of over 40 digits or not finite"),
        ('{"question": "a \\ud83d", "answer": "b"}', "row 1 question holds half a character"),
        ('{"question": "q", "answer": "\\udc00"}', "row 1 answer holds half a character"),
        (
            '{"question": "q", "answer": "a", "answer": "b"}',
            "line 2 is not JSON that can be read: the name 'answer' stands twice",
        ),
        ('{"question": "q", "answer": "a", "verifier": ["number"]}', "row 1 verifier is list, no text"),
        ('{"question": "q", "answer": "a", "choices": "abc"}', "row 1 choices is one text; accepted: a list"),
        ('{"question": "q", "answer": "x", "choices": "A) x B) y"}', "row 1 choices is one text"),
        ('{"question": "q", "answer": "x", "choices": "[\'x\' \'y\']"}', "row 1 choices is text that is no JSON list"),
        ('{"question": "q", "answer": "a", "choices": 5}', "row 1 choices is no list"),
        ('{"question": "q", "answer": "a", "choices": ["a"]}', "row 1 choices has one choice alone"),
        ('{"question": "q", "answer": "a", "choices": ["a", " a "]}', "row 1 choices has the same text twice, 0 and 1"),
        ('{"question": "q", "answer": 1, "choices": [null, "y"]}', r"row 1 choices\[0\] is null"),
        ('{"question": "q", "answer": 1, "choices": ["x", ""]}', r"row 1 choices\[1\] is blank"),
        ('{"question": "q", "answer": 1, "choices": [["x"], "y"]}', r"row 1 choices\[0\] is a list"),
        ('{"question": "q", "answer": 2, "choices": ["x", "y"]}', "row 1 answer 2 is not one of its choices 'x', 'y'"),
        (
            '{"question": "q", "answer": 0, "choices": [{"text": "x"}, {"text": "y", "is_correct": true}]}',
            "row 1 answer 0 does not name 'y', which its choices 'x', 'y' mark as right",
        ),
        (
            '{"question": "q", "choices": [{"text": "x", "is_correct": false}, {"text": "y", "is_correct": false}]}',
            "row 1 choices has 0 choices marked as right",
        ),
        ('{"question": "q", "answer": -1, "choices": ["x", "y"]}', "row 1 answer -1 is not one of its choices"),
        ('{"question": "q", "answer": 0.5, "choices": ["x", "y"]}', "row 1 answer 0.5 is not one of its choices"),
        ('{"question": "q", "answer": "\\u00b2", "choices": ["x", "y"]}', "row 1 answer '²' is not one of its choices"),
        ('{"question": "q", "answer": true, "choices": ["x", "y"]}', "row 1 answer true is not one of its choices"),
        ('{"question": "q", "answer": true, "choices": [0, 1]}', "row 1 answer true is not one of its choices"),
        (
            '{"question": "q", "answer": {"text": ["x"]}, "choices": {"text": ["x"], "label": []}}',
            "row 1 choices is a mapping without",
        ),
        ('{"question": "q", "answer": null, "choices": ["x", "y"]}', "row 1 answer is null"),
        ("[" * 100_000, "line 2 is not JSON that can be read: nested too deep"),
        ('{"a":' * 50_000, "line 2 is not JSON that can be read: nested too deep"),
        ('{"question": "q", "answer": ' + "1" * 5000 + "}", "line 2 is not JSON that can be read"),
    ],
)
def test_a_row_of_another_type_is_refused_by_file_and_row(
    store: Store, tmp_path: Path, line: str, message: str
) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as refused:
        jsonl(store, tmp_path, f"{GOOD}\n{line}\n")
    assert "r.jsonl line 2" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert time.process_time() - started < 5, "whatever stands in a line, the answer comes in bounded time"
    assert not list((store.root / "store").glob("*/*")), "nothing of it is sealed"


def test_text_that_is_no_unicode_is_refused_by_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2 is not UTF-8 at byte 14"):
        jsonl(store, tmp_path, GOOD.encode() + b'\n{"question": "\xff", "answer": "a"}\n')


@pytest.mark.parametrize(
    "content",
    [
        f"{GOOD}\n{GOOD}\n".encode(),
        f"{GOOD}\n{GOOD}".encode(),
        f"\n{GOOD}\n  \n{GOOD}\n\n".encode(),
        f"\ufeff{GOOD}\r\n{GOOD}\r\n".encode(),
    ],
)
def test_blank_lines_mark_and_line_ends_make_no_difference(store: Store, tmp_path: Path, content: bytes) -> None:
    rows = jsonl(store, tmp_path, content)
    assert [(row.id, row.question, row.answer) for row in rows] == [("000000", "q", "a"), ("000001", "q", "a")]


def test_a_number_is_an_answer_as_it_was_written(store: Store, tmp_path: Path) -> None:
    lines = [f'{{"question": "q", "answer": {number}}}' for number in ("7", "-3", "1.10", "1e3", "0.25")]
    assert [row.answer for row in jsonl(store, tmp_path, "\n".join(lines))] == ["7", "-3", "1.10", "1000", "0.25"]


def test_blank_texts_are_no_rows_and_their_count_is_told(store: Store, tmp_path: Path) -> None:
    """A third of WikiText's rows are empty: each was an empty chat before."""
    lines = [{"text": text} for text in ("", " = Title = \n", "  \n", "Words.", "\t")]
    events: list[Event] = []
    with listen(events.append):
        rows = jsonl(store, tmp_path, "\n".join(map(json.dumps, lines)))
    assert [(row.id, row.text) for row in rows] == [("000001", " = Title = \n"), ("000003", "Words.")], (
        "numbered as in the source"
    )
    assert any("3 blank text rows left out" in event.text for event in events if isinstance(event, Note))
    with pytest.raises(ValueError, match="gave no rows; 2 blank text rows left out"):
        jsonl(store, tmp_path, '{"text": ""}\n{"text": " "}\n')


def test_rows_with_blank_cells_can_be_dropped_and_are_counted(store: Store, tmp_path: Path) -> None:
    lines = [GOOD, '{"question": null, "answer": "a"}', '{"question": "p", "answer": ""}', '{"text": null}', GOOD]
    events: list[Event] = []
    with listen(events.append):
        rows = jsonl(store, tmp_path, "\n".join(lines), blank_rows="drop")
    assert [row.question for row in rows] == ["q", "q"]
    assert any("3 rows with a blank cell dropped" in event.text for event in events if isinstance(event, Note))
    with pytest.raises(ValueError, match="question is a number"):
        jsonl(store, tmp_path, '{"question": 3, "answer": "a"}', blank_rows="drop")


def parquet(store: Store, folder: Path, columns: dict[str, Any], **options: Any) -> list[Row]:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "r.parquet")
    return ingested(store, f"parquet:{folder / 'r.parquet'}", **options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["q", None], "answer": ["a", "b"]}, "row 1 question is null"),
        (
            {"question": ["q", "p"], "answer": [1.0, float("nan")]},
            "row 0 answer is a number; accepted: text or a whole",
        ),
        ({"question": ["q"], "answer": [b"a"]}, "row 0 answer is bytes"),
        ({"question": [3], "answer": ["a"]}, "row 0 question is a number"),
        ({"text": ["a", None]}, "row 1 text is null"),
    ],
)
def test_cells_of_a_table_are_looked_at_alike(store: Store, tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        parquet(store, tmp_path, columns)
    assert "r.parquet" in str(refused.value)


def test_a_table_gives_whole_numbers_and_nested_choices(store: Store, tmp_path: Path) -> None:
    assert [row.answer for row in parquet(store, tmp_path, {"question": ["q"], "answer": [12]})] == ["12"]
    nested = [{"text": ["sun", "moon"], "label": ["A", "B"]}, {"text": ["2", "1"], "label": ["1", "2"]}]
    rows = parquet(
        store, tmp_path, {"question": ["q", "p"], "choices": nested, "answerKey": ["B", "1"]}, answer_field="answerKey"
    )
    assert [(row.answer, row.answer_index, row.choices) for row in rows] == [
        ("moon", 1, ["sun", "moon"]),
        ("2", 0, ["2", "1"]),
    ]


def test_what_is_no_table_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"r\.parquet is no Parquet file"):
        ingested(store, f"parquet:{tmp_path / 'r.parquet'}")


@pytest.mark.parametrize("target", ["http://localhost:9/schema.json", "file:///etc/hostname", "other.json", "//host/x"])
@pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
def test_a_schema_that_refers_outside_itself_is_refused(store: Store, tmp_path: Path, key: str, target: str) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"items": {key: target}}}})
    row = json.dumps({"question": "q", "answer": schema, "verifier": "json_schema"})
    with pytest.raises(
        ValueError,
        match=r"1 of 1 references cannot be checked against: row 000000 \(json_schema: its \$ref leads nowhere",
    ):
        jsonl(store, tmp_path, row)
    within = json.dumps({"$defs": {"x": {"type": "null"}}, "properties": {"$ref": {key: "#/$defs/x"}}})
    [row] = jsonl(store, tmp_path, json.dumps({"question": "q", "answer": within, "verifier": "json_schema"}))
    assert row.answer == within


def test_marked_choices_need_no_answer_and_what_nothing_reads_is_told(store: Store, tmp_path: Path) -> None:
    cell = [{"text": "x", "is_correct": False, "why": "no"}, {"text": "y", "is_correct": True, "why": "yes"}]
    records = [{"question": "q", "choices": cell}, {"question": "p", "choices": cell, "answer": "B"}]
    notes: list[str] = []
    with listen(lambda event: notes.append(event.text) if isinstance(event, Note) else None):
        rows = jsonl(store, tmp_path, "\n".join(map(json.dumps, records)))
    assert [(row.answer, row.answer_index, row.choices, row.verifier) for row in rows] == [
        ("y", 1, ["x", "y"], "choice")
    ] * 2
    assert "columns that are not read: choices.why" in notes
