"""Tables of what was measured, made of `benchmarks/results/*.json` and of nothing else: a figure without its file is not shown.

A page names a table by a comment, `<!-- results: NAME: TABLE: ROWS: COLUMNS -->`, and the generator puts the table in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.generate.markdown import code, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FOLDER = "reference/results"
# As a reader says them; what is not here is shown as the benchmark prints it.
HEADINGS = {
    "perplexity_ratio wikitext_test": "WikiText perplexity / original's",
    "kl_nats wikitext_test": "KL, WikiText",
    "kl_nats gsm8k_test": "KL, GSM8K",
    "kl_nats own_answers": "KL, own answers",
    "agreement own_answers": "agreement, own answers",
    "agreement wikitext_test": "agreement, WikiText",
    "loss_nats gsm8k_test": "loss, GSM8K solutions",
    "loss_nats instructions": "loss, instructions",
    "retention arc_easy": "retention, ARC-Easy",
    "retention csqa": "retention, CSQA",
    "retention facts": "retention, facts",
    "accuracy arc_easy": "accuracy, ARC-Easy",
    "accuracy csqa": "accuracy, CSQA",
    "accuracy facts": "accuracy, facts",
    "exact match gsm8k_test": "GSM8K, exact match",
}
COMMENT = re.compile(r"<!-- results: ([^:>]+): ([^:>]+): ([^:>]+): ([^>]+?) -->")


def read_results() -> dict[str, dict[str, Any]]:
    """Return the results that have tables, by name."""
    by_name = {
        path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.rglob("*.json"), key=lambda path: path.stem)
    }
    return {name: result for name, result in by_name.items() if result.get("tables")}


def result_pages() -> Iterator[tuple[str, str]]:
    """Yield (path, Markdown) of the page of all results, then of each."""
    results = read_results()
    rows = [
        (f"[{name}]({name}.md)", result["date"][:10], _machine(result), code(result["command"]))
        for name, result in results.items()
    ]
    parts = [
        "# Results",
        "Each table of this site comes from a file under `benchmarks/results/`, which the benchmark wrote. "
        "Where a number stands in brackets, it is the 95% interval unless the title says otherwise.",
        table(("result", "date", "machine", "command"), rows),
    ]
    yield f"{FOLDER}/index.md", "\n\n".join(parts)
    for name, result in results.items():
        yield f"{FOLDER}/{name}.md", _page(name, result)


def provenance(result: dict[str, Any]) -> str:
    """Return a line that says when, where, from what and how a result was measured."""
    versions = result.get("versions", {})
    shown = ", ".join(f"{package} {version}" for package, version in versions.items() if package in SHOWN)
    parts = [f"Measured {result['date'][:10]} on {_machine(result)}", f"commit `{result['commit']}`", shown]
    line = ", ".join(part for part in parts if part) + f", by `{result['command']}`."
    return f"{line} {result['note']}" if result.get("note") else line


SHOWN = ("torch", "transformers", "onnxruntime", "peft", "prefect", "mlflow")


def with_results(text: str) -> str:
    """Return a page with the tables that its comments name. Raises ValueError for a result, table, row or column that is not there."""
    return COMMENT.sub(lambda match: unbroken(chosen(*match.groups())), text)


def unbroken(text: str) -> str:
    """Return a table whose intervals are not torn apart at their comma."""
    return re.sub(r"\[([-\d.e+]+), ([-\d.e+]+)\]", "[\\1,&nbsp;\\2]", text)


def with_blocks(text: str) -> str:
    """Return a page that the forge shows too, with each table between its comment and `<!-- end -->` made anew."""
    pattern = re.compile(f"({COMMENT.pattern})\n.*?<!-- end -->", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n\n{chosen(*match.groups()[1:])}\n\n<!-- end -->", text)


def chosen(name: str, title: str, rows: str, columns: str) -> str:
    """Return part of a result's table: rows and columns by name, `all` for every one, behind them where it was measured."""
    results = read_results()
    if name not in results:
        raise ValueError(f"benchmarks/results/{name}.json is not there; known: {', '.join(results)}")
    tables = {entry["title"]: entry for entry in results[name]["tables"]}
    if title not in tables:
        raise ValueError(f"benchmarks/results/{name}.json has no table {title!r}; known: {'; '.join(tables)}")
    first, *others = tables[title]["columns"]
    by_name = {row[0]: dict(zip(tables[title]["columns"], row, strict=False)) for row in tables[title]["rows"]}
    wanted_rows = list(by_name) if rows.strip() == "all" else [row.strip() for row in rows.split(";")]
    wanted = others if columns.strip() == "all" else [column.strip() for column in columns.split(";")]
    for kind, names, known in (("row", wanted_rows, by_name), ("column", wanted, others)):
        if missing := [entry for entry in names if entry not in known]:
            raise ValueError(f"{title!r} of {name} has no {kind} {missing[0]!r}; known: {', '.join(known)}")
    cells = [(code(row), *(by_name[row].get(column, "") for column in wanted)) for row in wanted_rows]
    return table((first, *(HEADINGS.get(column, column) for column in wanted)), cells)


def _page(name: str, result: dict[str, Any]) -> str:
    parts = [f"# {name}", provenance(result)]
    for entry in result["tables"]:
        columns = [HEADINGS.get(column, column) for column in entry["columns"]]
        rows = [(code(row[0]), *row[1:]) for row in entry["rows"]]
        parts += [f"## {entry['title']}"] if entry["title"] else []
        parts.append(unbroken(table(columns, rows)))
    if result.get("lines"):
        parts.append("\n".join(line if line.startswith("- ") else f"- {line}" for line in result["lines"]))
    return "\n\n".join(parts)


def _machine(result: dict[str, Any]) -> str:
    machine = result.get("machine", {})
    return f"{machine.get('processor', 'an unknown processor')}, {machine.get('num_cores', '?')} cores"
