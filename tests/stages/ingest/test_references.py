"""References are checked when rows are sealed: a row that no answer could ever pass is refused by file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data


def ingested(store: Store, tmp_path: Path, records: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0, **options)
    artifact = ingest_data.execute(config, NoInputs(), store).artifact
    return [json.loads(line) for line in (artifact.path / "rows.jsonl").open()]


@pytest.mark.parametrize(
    ("verifier", "answer", "reason"),
    [
        ("number", "many", "no number in it"),
        ("number", "9" * 20_000, "no fraction, or longer"),
        ("pattern", "(", "no regular expression"),
        ("json_schema", '{"$ref": "#/nowhere"}', r"\$ref"),
        ("json_schema", '{"$ref": "#"}', "itself without end"),
        ("json_schema", '{"type": 7}', "no JSON schema"),
        ("unit_tests", "assert f(", "no Python"),
    ],
)
def test_a_reference_that_nothing_can_be_checked_against_is_refused_with_its_row(
    store: Store, tmp_path: Path, verifier: str, answer: str, reason: str
) -> None:
    good = {"number": "#### 72", "pattern": "a+", "json_schema": "{}", "unit_tests": "assert f() == 1"}[verifier]
    records = [{"question": "a", "answer": good}, {"question": "b", "answer": answer}]
    with pytest.raises(ValueError, match=f"1 of 2 references cannot be checked against: row 0.*{reason}") as refusal:
        ingested(store, tmp_path, records, verifier=verifier)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    assert len(ingested(store, tmp_path, records[:1], verifier=verifier)) == 1


def test_rows_without_a_check_and_in_any_script_are_taken(store: Store, tmp_path: Path) -> None:
    rows = ingested(
        store,
        tmp_path,
        [
            {"question": "a", "answer": "many"},
            {"question": "b", "answer": "Москва", "verifier": "contains"},
            {"question": "c", "answer": "٣٫٥", "verifier": "number"},
            {"question": "d", "answer": "東京", "choices": ["北京", "東京"]},
            {"question": "e", "answer": "+", "choices": ["+", "-"]},
        ],
    )
    assert [row.get("verifier", "none") for row in rows] == ["none", "contains", "number", "choice", "choice"]
