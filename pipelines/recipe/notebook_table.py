"""Tables of plain values as a notebook shows them (HTML) and as a prompt does (text)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Rows = Sequence[Mapping[str, Any]]
GAP = "  "
# A notebook's own style decides the rest.
CELL_STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap"


def html_table(rows: Rows, caption: str = "", note: str = "") -> str:
    """Return rows as an HTML table, every text escaped; `caption` stands above it, `note` below."""
    head = f"<strong>{escape(caption)}</strong>" if caption else ""
    foot = f"<small>{escape(note)}</small>" if note else ""
    if not rows:
        return f"<div>{head}{foot}</div>"
    columns = _columns(rows)
    heads = "".join(f'<th style="{CELL_STYLE}">{escape(name)}</th>' for name in columns)
    lines = "".join(
        "<tr>" + "".join(f'<td style="{CELL_STYLE}">{escape(_text(row.get(name)))}</td>' for name in columns) + "</tr>"
        for row in rows
    )
    return f"<div>{head}<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>{foot}</div>"


def text_table(rows: Rows, caption: str = "", note: str = "") -> str:
    """Return rows as aligned columns of text, under `caption` and above `note`."""
    lines = [caption] if caption else []
    if rows:
        columns = _columns(rows)
        cells = [columns, *([_text(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
        lines += [
            GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
    return "\n".join([*lines, *([note] if note else [])])


def _columns(rows: Rows) -> list[str]:
    """Return the headings in order of first use, without those that no row fills."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(_text(row.get(name)) for row in rows)]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else " ".join(str(value).split())
