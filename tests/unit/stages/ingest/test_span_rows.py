"""Rows with spans or tags come in verbatim, or are refused by file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data

TEXT = "Ataxia after lithium, and lithium again."
SPANS = {"question": "text", "spans": "spans"}
TAGS = {"question": "tokens", "tags": "tags"}


def rows_of(store: Store, folder: Path, records: list[Any], columns: dict[str, str]) -> list[Row]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    config = IngestDataConfig(source=f"jsonl:{path}", columns=columns, heldout_fraction=0.0)
    made = ingest_data.execute(config, NoInputs(), store).artifact
    return read_rows(made.path / "rows.jsonl")


def span(label: str, **where: Any) -> dict[str, Any]:
    return {"label": label, **where}


def test_spans_by_characters_and_by_words_are_one(store: Store, tmp_path: Path) -> None:
    given = [
        {"text": TEXT, "spans": [span("Drug", start=13, end=20), span("Effect", start=0, end=6, text="Ataxia")]},
        # the first `lithium` is taken by the span that says its place: the other is left
        {"text": TEXT + " ", "spans": [span("Drug", text="lithium"), span("Drug", start=13, end=20)]},
        {"text": "Nothing here.", "spans": []},
    ]
    first, second, third = rows_of(store, tmp_path, given, SPANS)
    assert first.spans == [
        {"start": 0, "end": 6, "label": "Effect"},
        {"start": 13, "end": 20, "label": "Drug"},
    ]
    assert [some["start"] for some in second.spans or ()] == [13, 26] and third.spans == []


def test_words_with_tags_are_a_text_with_spans(store: Store, tmp_path: Path) -> None:
    record = {"tokens": ["L", "-", "dopa", "helps", "."], "tags": ["B-Drug", "I-Drug", "I-Drug", "O", "O"]}
    (row,) = rows_of(store, tmp_path, [record], TAGS)
    assert row.question == "L - dopa helps ." and row.words == record["tokens"]
    assert row.spans == [{"start": 0, "end": 8, "label": "Drug"}]


def test_a_table_of_text_holds_lists_as_json(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tspans\nlithium helps\t"[{""label"": ""Drug"", ""start"": 0, ""end"": 7}]"\n')
    config = IngestDataConfig(source=f"tsv:{path}", columns=SPANS, heldout_fraction=0.0)
    (row,) = read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")
    assert row.spans == [{"start": 0, "end": 7, "label": "Drug"}]


@pytest.mark.parametrize(
    ("columns", "record", "message"),
    [
        (
            SPANS,
            {"text": TEXT, "spans": [span("Drug", text="Lithium")]},
            "row 1 span 'Lithium' is not verbatim in its text",
        ),
        (
            SPANS,
            {"text": TEXT, "spans": [span("Drug", text="lithium", start=12, end=19)]},
            "row 1 span 'lithium' is not verbatim in its text, which has ' lithiu' at 12 to 19",
        ),
        (SPANS, {"text": TEXT, "spans": [span("Drug", start=30, end=400)]}, "is not in its text of 40 characters"),
        (
            SPANS,
            {"text": TEXT, "spans": [span("A", text="lithium")] * 3},
            "span 'lithium' overlaps another wherever the text",
        ),
        (
            SPANS,
            {"text": TEXT, "spans": [span("A", start=0, end=12), span("B", start=7, end=20)]},
            "span 'after lithium' overlaps 'Ataxia after'; accepted: spans apart",
        ),
        (SPANS, {"text": TEXT, "spans": [{"text": "lithium"}]}, "has no label; accepted"),
        (SPANS, {"text": TEXT, "spans": "lithium"}, "accepted: a list of"),
        (SPANS, {"text": TEXT}, "has no column 'spans'"),
        (TAGS, {"tokens": ["a", "b"], "tags": ["O"]}, "2 words have 1 tags; accepted: a tag a word"),
        (
            TAGS,
            {"tokens": ["a", "b"], "tags": ["O", "S-Drug"]},
            "tag 'S-Drug' tells no span; accepted: O, B-KIND, I-KIND",
        ),
        (TAGS, {"tokens": ["a", "b"], "tags": [0, 1]}, "tags have 0; accepted: text"),
        (TAGS, {"tokens": "a b", "tags": ["O"]}, "words are a b; accepted: a list of text"),
    ],
)
def test_a_span_that_is_not_in_its_text_is_refused_by_file_and_row(
    store: Store, tmp_path: Path, columns: dict[str, str], record: dict[str, Any], message: str
) -> None:
    right = {"text": TEXT, "spans": [], "tokens": ["a"], "tags": ["O"]}
    with pytest.raises(ValueError, match=message) as refusal:
        rows_of(store, tmp_path, [right, record], columns)
    assert "rows.jsonl line 2" in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_ways_at_once_are_refused_while_the_recipe_loads() -> None:
    with pytest.raises(ValueError, match="columns names similarity and spans; accepted: one of them"):
        IngestDataConfig(source="template:sums", columns={"similarity": "a", "spans": "b"})
