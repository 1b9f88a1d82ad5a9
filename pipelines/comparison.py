"""The before/after table of a run: every evaluated model beside the first one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from registry.artifact import Artifact
from registry.run_record import RunRecord
from registry.store import Store


@dataclass(frozen=True)
class Column:
    """One number of the table: its heading, the factor and digits it is shown with, and whether lower is better."""

    heading: str
    metric: str
    factor: float
    digits: int
    is_lower_better: bool


COLUMNS = (
    Column("accuracy %", "accuracy", 100.0, 1, False),
    Column("perplexity", "perplexity", 1.0, 2, True),
    Column("parameters M", "num_parameters", 1e-6, 1, True),
    Column("MFLOPs/token", "flops_per_token", 1e-6, 0, True),
    Column("disk MB", "disk_bytes", 1e-6, 0, True),
    Column("prefill ms", "prefill_seconds", 1e3, 0, True),
    Column("decode ms/token", "decode_seconds_per_token", 1e3, 1, True),
)


def stored_artifact(record: RunRecord, store: Store, node: str) -> Artifact | None:
    """Return the artifact a node made, if the node finished and the artifact is still there."""
    entry = record.nodes[node]
    return store.load(entry.stage, entry.key) if entry.key and store.holds(entry.stage, entry.key) else None


def evaluations(record: RunRecord, store: Store) -> dict[str, dict[str, Any]]:
    """Return each evaluate node's content with its headline facts, by the name of the model it measured, the baseline first."""
    baseline = next((n.inputs["baseline"][0] for n in record.nodes.values() if n.inputs.get("baseline")), None)
    names = [name for name, node in record.nodes.items() if node.stage == "evaluate"]
    names.sort(key=lambda name: name != baseline)
    found = {}
    for name in names:
        artifact = stored_artifact(record, store, name)
        if artifact is not None:
            content = json.loads((artifact.path / "evaluation.json").read_text())
            found[record.nodes[name].inputs["model"][0]] = {**content, "facts": artifact.facts}
    return found


def comparison_rows(record: RunRecord, store: Store) -> list[dict[str, str]]:
    """Return one row a model with its numbers as text, and in brackets the ratio to the first."""
    rows: list[dict[str, str]] = []
    found = evaluations(record, store)
    baseline = next(iter(found.values()))["facts"] if found else {}
    for model, evaluation in found.items():
        facts = evaluation["facts"]
        row = {"model": f"{model} ({evaluation['format']}, {evaluation['num_blocks']} blocks)"}
        for column in COLUMNS:
            value, first = facts.get(column.metric), baseline.get(column.metric)
            row[column.heading] = "" if value is None else f"{value * column.factor:,.{column.digits}f}"
            if value is not None and first and rows:
                row[column.heading] += f" ({value / first:.2f}x)"
        rows.append(row)
    return rows
