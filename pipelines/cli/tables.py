"""Tables and JSON on standard output: a table fits its terminal, or 80 columns where it is piped."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A longer piece of a word is cut.
MAX_PIECE_WIDTH = 24
GAP = 2
# Where a line may end: behind a blank, or inside a name.
PIECE = re.compile(r"[^\s/_,|-]*[\s/_,|-]*")


def print_json(value: Any) -> None:
    """Print a value for scripts."""
    sys.stdout.write(
        json.dumps(value, indent=1, ensure_ascii=False, default=str).encode(errors="replace").decode() + "\n"
    )


def print_table(rows: Sequence[Mapping[str, Any]], note: str = "", console: Console | None = None) -> None:
    """Print rows of one form. Where they are too wide even with their texts wrapped, each row as a block of lines.

    Values may be rich's Text. `note` explains marks and words of the table, below it.
    """
    console = console or Console()
    if not rows:
        return
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    used = [name for name in cells[0] if any(row[name].plain for row in cells)]
    cells = [{name: row[name] for name in used} for row in cells]
    widths = _widths(cells, console.width)
    if widths is None:
        _print_blocks(cells, console)
    else:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for heading, width in widths.items():
            table.add_column(_wrapped(Text(heading), width), width=width, no_wrap=True)
        for row in cells:
            table.add_row(*(_wrapped(text, widths[heading]) for heading, text in row.items()))
        console.print(table)
    if note:
        console.print(note, style="dim", markup=False, highlight=False)


def _cell(value: Any) -> Text:
    text = value if isinstance(value, Text) else Text("" if value is None else str(value))
    # half an emoji, of a name that is no text, would end the whole print
    return text if text.plain.isascii() else Text(text.plain.encode(errors="replace").decode(), style=text.style)


def _widths(rows: Sequence[Mapping[str, Text]], available: int) -> dict[str, int] | None:
    """Return the width of each column, the widest made narrower until all fit; None where their pieces alone are too wide."""
    columns = {name: [name, *(row[name].plain for row in rows)] for name in rows[0]}
    widths = {
        name: max(cell_len(line) for text in texts for line in text.splitlines() or [""])
        for name, texts in columns.items()
    }
    least = {
        name: min(MAX_PIECE_WIDTH, max(cell_len(piece.rstrip()) for text in texts for piece in PIECE.findall(text)))
        for name, texts in columns.items()
    }
    excess = sum(widths.values()) + GAP * (len(widths) - 1) - available
    while excess > 0:
        widest = max(widths, key=lambda name: (widths[name] > least[name], widths[name]))
        if widths[widest] <= least[widest]:
            return None
        widths[widest] -= 1
        excess -= 1
    return widths


def _wrapped(text: Text, width: int) -> Text:
    """Return a text with line ends where its pieces would go past a width."""
    lines, line = [], Text(style=text.style)
    position = 0
    for piece in PIECE.findall(text.plain):
        part = text[position : position + len(piece)]
        position += len(piece)
        if line.plain and cell_len(line.plain) + cell_len(piece.rstrip()) > width:
            lines.append(line)
            line = Text(style=text.style)
        line.append_text(part)
    wrapped = Text("\n", style=text.style).join([*lines, line])
    return Text("\n").join(wrapped.wrap(Console(width=width), width, overflow="fold"))


def _print_blocks(rows: Sequence[Mapping[str, Text]], console: Console) -> None:
    width = max(map(len, rows[0]))
    for row in rows:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
        table.add_column(min_width=width, style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in row.items():
            if text.plain:
                table.add_row(heading, text)
        console.print(table)
        console.print()
