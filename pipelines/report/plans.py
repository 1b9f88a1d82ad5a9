"""Solved plans in a report. What each takes, predicts and lost, and the front that it was chosen from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attar.pipelines.report.charts import front_chart
from attar.pipelines.report.comparison import stored_artifact
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import RunRecord
from attar.stages.prune.solved import PLAN_RECORD

# Rows of a front that a page shows; the record beside the model has all.
MAX_ROWS = 12


def plan_sections(record: RunRecord, store: Store) -> dict[str, dict[str, Any]]:
    """Return figures, fronts and pictures of each prune node that carried a plan out."""
    sections = {}
    for name, node in record.nodes.items():
        artifact = stored_artifact(record, store, name)
        if node.stage != "prune" or artifact is None:
            continue
        path = artifact.path / RECORDS_FOLDER / PLAN_RECORD
        if path.exists():
            plan = json.loads(path.read_text())
            sections[name] = {
                "figures": _figures(plan),
                "fronts": {quantity: _rows(plan, quantity) for quantity in plan["fronts"]},
                "pictures": [_picture(plan, quantity) for quantity in plan["fronts"]],
            }
    return sections


def _figures(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    by_axis: dict[str, list[str]] = {}
    for item in plan["items"]:
        if item["axis"] != "seam_ends":
            by_axis.setdefault(item["axis"], []).append(item["where"])
    rows = [{"figure": axis, "value": ", ".join(wheres)} for axis, wheres in by_axis.items()]
    rows.append({"figure": "predicted, nats a token", "value": f"{plan['predicted_nats']:.4g}"})
    measured = plan["measured_nats"]
    if measured:
        value = f"{measured['value']:.4g} [{measured['low']:.4g}, {measured['high']:.4g}]"
        rows.append({"figure": "measured after its repair, nats a token", "value": value})
    shares = {name: left / plan["totals"][name] for name, left in plan["left"].items() if plan["totals"][name]}
    return rows + [{"figure": f"{name} left", "value": f"{share:.1%}"} for name, share in shares.items()]


def _rows(plan: Mapping[str, Any], quantity: str) -> list[dict[str, str]]:
    points: Sequence[Mapping[str, Any]] = plan["fronts"][quantity]
    stride = max(1, -(-len(points) // MAX_ROWS))
    return [
        {
            f"{quantity} left": f"{point['left'] / plan['totals'][quantity]:.1%}",
            "predicted, nats a token": f"{point['predicted_nats']:.4g}",
            "plan": point["plan"],
        }
        for point in points[::stride]
    ]


def _picture(plan: Mapping[str, Any], quantity: str) -> str:
    total = plan["totals"][quantity]
    points = [(point["left"] / total, point["predicted_nats"]) for point in plan["fronts"][quantity]]
    measured = plan["measured_nats"]
    return front_chart(
        points,
        (plan["left"][quantity] / total, plan["predicted_nats"]),
        measured["value"] if measured else None,
        quantity.replace("_", " "),
    )
