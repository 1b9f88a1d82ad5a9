"""Mutated rows and tables: each becomes rows of text, or is refused by file and row."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.records.delimited_table import DELIMITERS
from tests.system.campaign.inputs.mutate import changed_bytes, changed_text, changed_value

COUNT = 2_000
CLEAN = (ValueError,)
ROWS: list[dict[str, Any]] = [
    {"question": "What is 1 plus 1?", "answer": "2", "verifier": "number"},
    {"question": "Which is a colour?", "choices": ["red", "seven", "loud"], "answer": "A"},
    {"question": "Which is a number?", "choices": ["red", "seven"], "answer": 1},
    {"question": "Name a river.", "answer": "The Rhine", "verifier": "contains"},
    {"question": "Write x.", "answer": "^x$", "verifier": "pattern"},
    {"question": "Give JSON.", "answer": {"type": "object"}, "verifier": "json_schema"},
    {"text": "Plain text of a few words.\nAnd a second line."},
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]},
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}]},
    {"question": "A plum is red.", "answer": "A red plum.", "score": 0.9, "id": "a"},
    {"question": "Where is the pit?", "positives": ["a", "b"], "id": 7},
]
# Of pairs of sentences, and of questions with the texts of a corpus that answer them.
COLUMNS: list[dict[str, str]] = [
    {"similarity": "score"},
    {"positives": "positives"},
    {"row_id": "id"},
    {"similarity": "score", "row_id": "id"},
    {"question": "text", "answer": "score"},
]


def prepare(scratch: Path) -> None:
    """Nothing is shared."""


def attempt(prepared: None, seed: int, folder: Path) -> None:
    """Write a mutated file and bring it in; every row that comes in is text."""
    random_ = random.Random(seed)
    rows = [random_.choice(ROWS) for _ in range(random_.randint(1, 6))]
    for _ in range(random_.choice([1, 1, 2, 3])):
        rows = changed_value(rows, random_)
    form = random_.choice(["jsonl", "jsonl", "jsonl", "text", "parquet", "csv", "tsv"])
    path = folder / f"rows.{'txt' if form == 'text' else form}"
    _write(path, form, rows if isinstance(rows, list) else [rows], random_)
    options = {
        "max_rows": random_.choice([0, 0, 2]),
        "heldout_fraction": random_.choice([0.0, 0.1, 0.5]),
        "words_a_row": random_.choice([0, 3]) if form == "text" else 0,
        "verifier": random_.choice(["auto", "auto", "number", "contains", "none", "choice", "pattern", "json_schema"]),
    }
    if random_.random() < 0.25:
        options["columns"] = random_.choice(COLUMNS)
    config = IngestDataConfig(source=f"{form}:{path}", **options)
    artifact = ingest_data.execute(config, NoInputs(), Store(folder / "home")).artifact
    for row in read_rows(artifact.path / "rows.jsonl"):
        assert all(
            isinstance(text, str) for text in (row.question, row.answer, row.text, *row.choices, *row.positives)
        ), row
        assert row.similarity is None or math.isfinite(row.similarity), row


def _write(path: Path, form: str, rows: list[Any], random_: random.Random) -> None:
    if form == "parquet":
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), path)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, AttributeError):  # what no table can hold
            path.write_bytes(b"PAR1")
        if random_.random() < 0.3:
            path.write_bytes(changed_bytes(path.read_bytes(), random_))
        return
    if form in DELIMITERS:
        text = _table(rows, DELIMITERS[form], random_)
        text = changed_text(text, random_) if random_.random() < 0.5 else text
        path.write_bytes(random_.choice([b"", b"\xef\xbb\xbf"]) + text.encode(errors="surrogatepass"))
        return
    lines = [json.dumps(row, ensure_ascii=random_.random() < 0.5) for row in rows]
    text = random_.choice(["\n", "\n", "\r\n", "\n\n"]).join(lines)
    if random_.random() < 0.4:
        text = changed_text(text, random_)
    content = random_.choice([b"", b"", b"\xef\xbb\xbf"]) + text.encode(errors="surrogatepass")
    path.write_bytes(changed_bytes(content, random_) if random_.random() < 0.2 else content)


def _table(rows: list[Any], delimiter: str, random_: random.Random) -> str:
    """Return the rows as a table, their lists and mappings as JSON."""
    records = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(str(name) for record in records for name in record)) or ["question"]
    stream = io.StringIO(newline="")
    quoting = random_.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=random_.choice(["\n", "\r\n"]))
    writer.writerow(names)
    for record in records:
        cells = {str(name): cell for name, cell in record.items()}
        writer.writerow([_cell(cells.get(name)) for name in names])
    return stream.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
