"""CSV and TSV files: each row is that of the same table as JSONL, or refused in one line by file and line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.bare_paths import data_source
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig
from attar.stages.runtime.progress import Event, Note, listen


def ingested(store: Store, source: str, **options: Any) -> list[Row]:
    config = IngestDataConfig(source=source, heldout_fraction=0.0, **options)
    return read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")


def table(store: Store, folder: Path, content: str | bytes, form: str = "csv", **options: Any) -> list[Row]:
    path = folder / f"r.{form}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ingested(store, f"{form}:{path}", **options)


def notes_of(events: Sequence[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


RECORDS: list[dict[str, Any]] = [
    {"question": 'Say "hi", twice;\nplease', "answer": "007"},
    {"question": "A number?", "answer": "1.10", "verifier": "number"},
    {"question": "True?", "answer": "TRUE"},
    {"question": "Pick", "choices": ["red", "None", "1.50"], "answer": "None"},
    {"question": "Which?", "choices": {"text": ["sun", "moon"], "label": ["A", "B"]}, "answer": "moon"},
    {"question": "\u00bfQu\u00e9? \U0001f600\ttab", "answer": " spaced "},
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv", ";"), ("csv", "\t")])
def test_a_table_is_what_the_same_rows_are_as_jsonl(
    form: str, delimiter: str, quoting: Any, end: str, store: Store, tmp_path: Path
) -> None:
    names = ["question", "answer", "choices", "verifier"]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(names)
    for record in RECORDS:
        cells = [record.get(name, "") for name in names]
        writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    text = "\ufeff" + stream.getvalue().replace(f"{end}True", f"{end}{end}{delimiter * 3}{end}True") + end
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    events: list[Event] = []
    with listen(events.append):
        rows = table(store, tmp_path, text, form)
    assert rows == ingested(store, f"jsonl:{tmp_path / 'r.jsonl'}")
    assert ("cells are parted by" in notes_of(events)) is ((form, delimiter) not in (("csv", ","), ("tsv", "\t")))
    assert "4 of 6 rows have no choices" in notes_of(events)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\nq,a\nq,\n", "line 3: row 1 answer is blank; accepted: text, or blank_rows: drop"),
        ("question,answer\nq, \n", "line 2: row 0 answer is blank"),
        ("question,answer\nq,NaN\n", r"line 2 \(answer: read as missing\): row 0 answer is null"),
        ("question,answer\nNone,a\n", r"line 2 \(question: read as missing\): row 0 question is null"),
        ('question,answer\nq,"#N/A"\n', r"\(answer: read as missing\): row 0 answer is null"),
        ("text\nnull\n", r"\(text: read as missing\): row 0 text is null"),
        ("question,answer\nq,a\nq,a,b\n", "line 3: row 1 has 3 cells, the header 2; accepted: as many, with quotes"),
        ("question,answer\nq\n", "line 2: row 0 has 1 cells, the header 2"),
        ('question,answer\nq,"a" b\n', "line 2 is no row of a table: .*accepted: quotes around a whole cell"),
        ('question,answer\nq,"a\nq,b\n', "line 2 is no row of a table: unexpected end of data"),
        ('question,answer\n"q\nq",a\nq,"a"b\n', "line 4 is no row of a table"),
        (b"question,answer\nq,\xe9\n", "line 2 is not UTF-8 at byte 2; accepted: text in UTF-8"),
        ("question,answer\nq,a\n".encode("utf-16"), "line 1 is not UTF-8 at byte 0"),
        ("question,answer,answer\nq,a,b\n", "has two columns 'answer'; accepted: each name once"),
        ("q,a\n2+2,4\n", "line 2: row 0 has no column 'question'. Known: a, q"),
        ("question;answer,x\nq;a,b\n", "has no column 'question'"),
        ("question,answer\n", "gave no rows"),
        ("", "gave no rows"),
        ("question,answer,choices\nq,a,a|b\n", "row 0 choices is one text; accepted: a list"),
        ("question,answer,choices\nq,a,\"['a', 'b']\"\n", "row 0 choices is text that is no JSON list"),
        ('question,answer,choices\nq,z,"[""a"", ""b""]"\n', "row 0 answer 'z' is not one of its choices"),
        ('question,answer,choices\nq,2.0,"[""a"", ""b""]"\n', "row 0 answer '2.0' is not one of its choices"),
        ('question,answer,choices\nq,True,"[""a"", ""b""]"\n', "row 0 answer 'True' is not one of its choices"),
        ('question,answer,choices\nq,NA,"[""a"", ""b""]"\n', "row 0 answer is null"),
        ('messages\n"[{""role"": ""user"", ""content"": ""q"", ""content"": ""p""}]"\n', "row 0 messages is no JSON"),
        ("messages\n\"[{'role': 'user'}]\"\n", "row 0 messages is no JSON"),
    ],
)
def test_what_is_no_row_is_refused_by_file_and_line(
    store: Store, tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        table(store, tmp_path, content)
    assert "r.csv" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert not list((store.root / "store").glob("*/*")), "nothing of it is sealed"


def test_a_cell_of_megabytes_is_a_quote_that_was_never_closed(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2 is no row of a table: field larger than field limit"):
        table(store, tmp_path, 'question,answer\nq,"' + "a\n" * (2**23 + 9))
    [row] = table(store, tmp_path, f"question,answer\nq,{'a' * 10**6}\n")
    assert len(row.answer) == 10**6, "longer than what Python's reader takes unasked"


def test_a_tab_file_with_a_quote_that_opens_nothing_is_refused(store: Store, tmp_path: Path) -> None:
    """Read leniently the quotes would vanish, and an open one would swallow the rows behind it."""
    with pytest.raises(ValueError, match="line 2 is no row of a table"):
        table(store, tmp_path, 'question\tanswer\n"Hello" she said.\ta\n', "tsv")
    [row] = table(store, tmp_path, 'question\tanswer\nShe said "hello".\ta\n', "tsv")
    assert row.question == 'She said "hello".'


def test_rows_with_missing_cells_can_be_dropped_and_are_counted(store: Store, tmp_path: Path) -> None:
    events: list[Event] = []
    with listen(events.append):
        rows = table(store, tmp_path, "question,answer\nq,a\np,NaN\n,b\nnull,c\n", blank_rows="drop")
    assert [row.question for row in rows] == ["q"] and "3 rows with a blank cell dropped" in notes_of(events)


def test_conversations_texts_and_counts_of_a_table(store: Store, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["messages", "source"], [json.dumps(chat), "here"]])
    events: list[Event] = []
    with listen(events.append):
        [row] = table(store, tmp_path, stream.getvalue())
    assert (row.question, row.answer) == ("Hello", "Good day") and "columns that are not read: source" in notes_of(
        events
    )
    rows = table(store, tmp_path, 'id,text\n1,"Two\r\nlines"\r\n2, \r\n3,Words\r\n')
    assert [(row.id, row.text) for row in rows] == [("000000", "Two\nlines"), ("000002", "Words")]
    config = IngestDataConfig(source=f"csv:{tmp_path / 'r.csv'}")
    assert ingest_data.forecast(config, {}).facts["num_rows"] == 3
    assert data_source("a/b.csv") == "csv:a/b.csv" and data_source("b.tsv") == "tsv:b.tsv"


def test_a_source_that_is_no_plain_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.csv")
    for form in ("csv", "jsonl", "parquet", "text", "tsv"):
        with pytest.raises(ValueError, match=r"r\.csv is no plain file; accepted:"):
            IngestDataConfig(source=f"{form}:{tmp_path / 'r.csv'}")
    os.rename(tmp_path / "r.csv", tmp_path / "r.gguf")
    with pytest.raises(ValueError, match=r"r\.gguf is no plain file; accepted: gguf:PATH"):
        IngestModelConfig(source=f"gguf:{tmp_path / 'r.gguf'}")
    with pytest.raises(ValueError, match=r"r\.gguf is no folder; accepted: folder:PATH"):
        IngestModelConfig(source=f"folder:{tmp_path / 'r.gguf'}")
