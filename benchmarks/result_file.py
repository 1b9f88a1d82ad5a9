"""A benchmark's result as a file: the tables that it prints, with date, machine, commit, command and versions.

`results/NAME.json` is what the documentation's tables are made from: a figure without its file is not shown there.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
MACHINE = ("processor", "num_cores", "python")


def recorded(main: Callable[[], Any], *, has_table: bool = True, folder: Path = RESULTS) -> None:
    """Run a benchmark's `main`; write what it printed as a result where it ended well and printed a table.

    `has_table=False`: of a benchmark that prints lines alone.
    """
    printed = Echo(sys.stdout)
    code: Any = 0
    with redirect_stdout(printed):
        try:
            main()
        except SystemExit as end:  # typer ends so, in success too
            code = end.code
    tables, lines = read_tables(printed.getvalue())
    if not code and (tables or not has_table):
        write_result(Path(sys.argv[0]).stem, tables, lines, folder=folder)
    if code:
        sys.exit(code)


def write_result(name: str, tables: list[dict[str, Any]], lines: list[str], *, folder: Path = RESULTS) -> Path:
    """Write a benchmark's tables with their provenance; return the file."""
    environment = describe_environment()
    result = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": " ".join(["python", *(_shown(word) for word in sys.argv)]),
        "machine": {key: environment[key] for key in MACHINE if key in environment},
        "versions": environment.get("packages", {}),
        "tables": tables,
        "lines": lines,
    }
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def read_tables(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the Markdown tables with a row in a text, each titled by the line before it, and the lines beside them."""
    tables: list[dict[str, Any]] = []
    lines: list[str] = []
    current: dict[str, Any] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            current = None
            lines += [line.strip()] if line.strip() else []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if current is None:
            current = {"title": lines.pop() if lines else "", "columns": cells, "rows": []}
            tables.append(current)
        elif set(line) - set("|-: "):
            current["rows"].append(cells)
    return [table for table in tables if table["rows"]], lines


class Echo(io.StringIO):
    """Text that is kept and shown at once."""

    def __init__(self, screen: io.TextIOBase | Any) -> None:
        super().__init__()
        self._screen = screen

    def write(self, text: str) -> int:
        self._screen.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._screen.flush()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _shown(word: str) -> str:
    """Return a word of the command line, such as PATH, NAME=PATH or folder:PATH, without the folders of this machine."""
    name, mark, value = next((parts for sign in "=:" if (parts := word.rpartition(sign))[1]), ("", "", word))
    path = Path(value)
    return f"{name}{mark}{path.name}" if path.is_absolute() else word
