"""Functions of an installed package as rows: what its docstrings say, and the code, read and never run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data

SOURCE = '''
raise SystemExit("this module is never run")


def total(values):
    """Return the sum of all values given.

    More words.
    """
    result = 0
    for value in values:
        result += value
    return result


def quiet(values):
    result = list(values)
    result.sort()
    return result


def short(values):
    """Return the values as they are here."""
    return values
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "site" / "littlepackage").mkdir(parents=True)
    (tmp_path / "site" / "littlepackage" / "__init__.py").write_text("")
    (tmp_path / "site" / "littlepackage" / "sums.py").write_text(SOURCE)
    (tmp_path / "site" / "littlepackage" / "broken.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "littlepackage"


def test_a_function_is_a_question_and_its_code(store: Store, package: str) -> None:
    config = IngestDataConfig(source=f"docstrings:{package}", heldout_fraction=0.0)
    (row,) = read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")
    assert row.question == "Return the sum of all values given."
    assert row.answer.startswith("def total(values):\n    result = 0") and "More words" not in row.answer
    assert f"{package}.sums" not in sys.modules


@pytest.mark.parametrize(
    ("rest", "message"), [("no_such_package_here", "is installed here"), ("../x", "is no package's name")]
)
def test_what_is_no_package_is_refused(store: Store, rest: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ingest_data.execute(IngestDataConfig(source=f"docstrings:{rest}"), NoInputs(), store)
