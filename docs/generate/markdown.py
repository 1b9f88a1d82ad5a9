"""Markdown of the generated pages: tables whose cells cannot break them, and headings with a fixed address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return text for a table's cell: one line, bars escaped outside code, where a table takes them as they are."""
    parts = re.split(r"(`[^`]+`)", " ".join(str(text).split()))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def code(text: object) -> str:
    """Return text as inline code, with the fence that it needs; bars stay readable in a table."""
    inner = " ".join(str(text).split())
    fence = "``" if "`" in inner else "`"
    return f"{fence}{inner}{fence}" if inner else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, empty where it has no row."""
    lines = ["| " + " | ".join(cell(entry) for entry in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *lines])


def field_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table that becomes a list on a phone: name, what it takes, default, meaning."""
    entries = [list(row) for row in rows]
    filled = [index for index in range(len(columns)) if any(row[index] for row in entries)]
    made = table([columns[index] for index in filled], ([row[index] for index in filled] for row in entries))
    return f'<div class="fields" markdown>\n\n{made}\n\n</div>' if made else ""


def slug(heading: str) -> str:
    """Return the address of a heading as the site and the forge make it: lower case, words joined by dashes."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    plain = re.sub(r"[^\w\s-]", "", plain.lower()).strip()
    return re.sub(r"[-\s]+", "-", plain)


def prose(text: str) -> str:
    """Return a docstring as Markdown: addresses are links, code stays code, and no other sign is taken for markup."""
    parts = re.split(r"(`[^`]+`|https?://[^\s)<>]*[^\s)<>.,;:])", text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(part: str) -> str:
    if re.match(r"https?://", part):
        return f"<{part}>"
    return re.sub(r"([\[\]*])", r"\\\1", part).replace("<", "&lt;").replace(">", "&gt;")
