"""Read CSV and TSV files. Every cell is text as it was written; nothing is guessed but the delimiter that the header shows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.stages.artifacts.dataset.cells import is_blank
from attar.stages.artifacts.work_forecast import MAX_COUNTED_BYTES
from attar.stages.runtime.progress import note

DELIMITERS = {"csv": ",", "tsv": "\t"}
# Spreadsheets of countries with a decimal comma write semicolons; some programs call a file of tabs CSV.
OTHER_DELIMITERS = (";", "\t")
# How pandas, R, SQL and spreadsheets write a cell that is missing. Nobody can tell it from the word.
MISSING = frozenset(("NaN", "nan", "NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null", "None", "NaT"))
# A cell longer than this is a quote that was never closed.
MAX_CELL = 2**24
BOM = b"\xef\xbb\xbf"


def read_table(path: Path, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a CSV or TSV file (RFC 4180) with a header. Each says where it stands; blank lines are none.

    A cell that reads NaN, NA, null or None is None: it is refused or dropped like a blank one, unless it is one of its row's choices.
    Raises ValueError, naming the line, for open or stray quotes, a row of more or fewer cells than the header, text that is not UTF-8.
    """
    delimiter = delimiter_of(path, source)
    if delimiter != DELIMITERS[source.partition(":")[0]]:
        note(f"{source}: cells are parted by {delimiter!r}, as its header is")
    lines = _rows_of(path, source, delimiter)
    _, names = next(lines, (1, []))
    if twice := [name for name, count in Counter(names).items() if count > 1 and name.strip()]:
        raise ValueError(f"{source} has two columns {twice[0][:40]!r}; accepted: each name once")
    for index, (line, cells) in enumerate(lines):
        where = f"{source} line {line}"
        if len(cells) != len(names):
            raise ValueError(
                f"{where}: row {index} has {len(cells)} cells, the header {len(names)}; "
                "accepted: as many, with quotes around a cell that holds the delimiter or a line's end"
            )
        choices = {cell for cell in cells if cell.lstrip()[:1] in ("[", "{")}
        missing = [name for name, cell in zip(names, cells, strict=True) if _is_missing(cell, choices)]
        remark = f" ({', '.join(missing)[:60]}: read as missing)" if missing else ""
        record = {name: None if name in missing else cell for name, cell in zip(names, cells, strict=True)}
        yield f"{where}{remark}: row {index}", record


def size_of_table(path: Path, source: str, max_rows: int) -> tuple[int, float]:
    """Return (rows, at most `max_rows` where it is not 0; bytes). A file too large to be counted in a plan has `max_rows`.

    Raises ValueError for quotes and text that `read_table` refuses.
    """
    num_bytes = path.stat().st_size
    if num_bytes > MAX_COUNTED_BYTES:
        return max_rows, float(num_bytes)
    num_rows = max(0, sum(1 for _ in _rows_of(path, source, delimiter_of(path, source))) - 1)
    return min(num_rows, max_rows or num_rows), float(num_bytes)


def delimiter_of(path: Path, source: str) -> str:
    """Return the delimiter of a file. That of its form, or where this leaves the header one cell, what parts it."""
    usual = DELIMITERS[source.partition(":")[0]]
    with path.open("rb") as stream:
        header = next((line for line in stream if line.strip()), b"").removeprefix(BOM).decode(errors="replace")
    if usual in header:
        return usual
    others = [delimiter for delimiter in OTHER_DELIMITERS if delimiter in header]
    return others[0] if len(others) == 1 else usual


def _is_missing(cell: str, choices: set[str]) -> bool:
    return cell in MISSING and not any(f'"{cell}"' in text for text in choices)


def _rows_of(path: Path, source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it begins, cells) of every row that is not blank, the header among them."""
    csv.field_size_limit(MAX_CELL)
    with path.open("rb") as stream:
        # strict: a stray quote is an error; else the reader takes it off, and an open one swallows the rows behind it
        reader = csv.reader(_lines(stream, source), delimiter=delimiter, strict=True)
        before = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(
                    f"{source} line {before + 1} is no row of a table: {error}; accepted: quotes around a whole cell, doubled within it"
                ) from error
            if not all(is_blank(cell) for cell in cells):
                yield before + 1, [cell.replace("\r\n", "\n") for cell in cells]
            before = reader.line_num


def _lines(stream: Any, source: str) -> Iterator[str]:
    for number, raw in enumerate(stream, start=1):
        line = raw.removeprefix(BOM) if number == 1 else raw
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source} line {number} is not UTF-8 at byte {error.start}; accepted: text in UTF-8 (a spreadsheet's CSV UTF-8)"
            ) from error
