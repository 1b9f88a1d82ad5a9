"""One self-contained HTML page a run: what changed, by how much, and how to trust it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attar.pipelines.report.charts import heat_map, loss_curve, retention_bars
from attar.pipelines.report.comparison import (
    comparison_rows,
    draft_rows,
    evaluations,
    retained_shares,
    retention_rows,
    stored_artifact,
    warnings,
)
from attar.pipelines.report.graph_picture import lineage_svg
from attar.pipelines.report.plans import plan_sections
from attar.registry.artifacts.facts import several
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.handles import FLIPS, Artifact
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import PREDICTIONS, RunRecord
from attar.stages.scan.tables import TABLE, read_scores, scored_metrics

REPORT = "report.html"


def write_report(record: RunRecord, store: Store) -> Path:
    """Write `report.html` into the run's folder and return its path. Works on failed and partial runs too."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        record=record.as_dict(),
        table=comparison_rows(record, store),
        warnings=warnings(record, store),
        heat_maps=_heat_maps(record, store),
        plans=plan_sections(record, store),
        curves=_curves(record, store),
        retention=_retention(record, store),
        retained=retention_rows(record, store),
        drafts=draft_rows(record, store),
        predictions=_predictions(record),
        samples=_samples(record, store),
        releases=_releases(record, store),
        behaviours=_behaviours(record, store),
        parities=_contents(record, store, "export", "parity.json"),
        lineage=lineage_svg(record.nodes),
    )
    write_synced(record.folder / REPORT, page)
    return record.folder / REPORT


def _heat_maps(record: RunRecord, store: Store) -> dict[str, str]:
    """Return a heat map for each prune node that chose its window from a scan."""
    pictures = {}
    for name, node in record.nodes.items():
        pruned = stored_artifact(record, store, name)
        if node.stage != "prune" or pruned is None or "scan" not in node.inputs:
            continue
        scan = stored_artifact(record, store, node.inputs["scan"][0])
        if scan is not None and scored_metrics(scan.path / TABLE):
            removed = [*several(pruned.facts, "removed_blocks")]
            pictures[name] = _heat_map(scan, removed, node.config["metric"])
    return pictures


def _heat_map(scan: Artifact, removed: list[int], metric: str) -> str:
    """Draw the scores that chose; where a greedy order did, the scan's first table of windows."""
    known = scored_metrics(scan.path / TABLE)
    shown = metric if metric in known else known[0]
    return heat_map(read_scores(scan.path / TABLE, shown), removed, shown)


def _curves(record: RunRecord, store: Store) -> dict[str, str]:
    """Return a loss curve for each finetune node."""
    pictures = {}
    for name, node in record.nodes.items():
        artifact = stored_artifact(record, store, name)
        if node.stage != "finetune" or artifact is None:
            continue
        curves: dict[str, list[tuple[int, float]]] = {}
        for line in (artifact.path / "records" / "metrics.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry["name"].endswith("_nats"):
                curves.setdefault(entry["name"], []).append((entry["step"], entry["value"]))
        pictures[name] = loss_curve(curves)
    return pictures


def _predictions(record: RunRecord) -> list[dict[str, str]]:
    """Return what past runs predicted of this one's models beside what came. Empty where too few runs had been."""
    file = record.folder / PREDICTIONS
    return [
        {
            "model": row["model"],
            "figure": row["figure"],
            "predicted": f"{row['predicted']:.4g} [{row['low']:.4g}, {row['high']:.4g}]",
            "came": f"{row['came']:.4g}",
            "within": row["within"],
            "from": f"{row['num_cases']} models",
        }
        for row in (json.loads(file.read_text()) if file.is_file() else [])
    ]


def _retention(record: RunRecord, store: Store) -> str:
    shares = retained_shares(record, store)
    return retention_bars(shares) if any(shares.values()) else ""


def _samples(record: RunRecord, store: Store) -> list[dict[str, Any]]:
    """Return questions with the answer of every model."""
    by_node = evaluations(record, store)
    questions: dict[str, dict[str, Any]] = {}
    for model, evaluation in by_node.items():
        for sample in evaluation["samples"]:
            entry = questions.setdefault(sample["question"], {**sample, "answers": {}})
            entry["answers"][model] = sample["answer"]
    return list(questions.values())


def _behaviours(record: RunRecord, store: Store) -> dict[str, Any]:
    """Return the checks of behaviour by node: their groups, and the texts of what changed."""
    behaviours = {}
    for name, node in record.nodes.items():
        artifact = stored_artifact(record, store, name)
        if node.stage == "check_behaviour" and artifact is not None:
            content = json.loads((artifact.path / "behaviour.json").read_text())
            flips = [json.loads(line) for line in (artifact.path / FLIPS).read_text().splitlines()]
            behaviours[name] = {**content, "flips": flips}
    return behaviours


def _releases(record: RunRecord, store: Store) -> dict[str, Any]:
    """Return the releases; of those that an earlier version made, the checks without what it did not know."""
    unknown = {"known": "", "measured_on": "", "laxness": "", "verdict": "", "undecided": "", "level": None}
    releases = _contents(record, store, "register", "release.json")
    return {
        name: {"verdict": "", **release, "checks": [{**unknown, **check} for check in release["checks"]]}
        for name, release in releases.items()
    }


def _contents(record: RunRecord, store: Store, stage: str, file: str) -> dict[str, Any]:
    contents = {}
    for name, node in record.nodes.items():
        artifact = stored_artifact(record, store, name)
        if node.stage == stage and artifact is not None and (artifact.path / file).exists():  # of causal models alone
            contents[name] = json.loads((artifact.path / file).read_text())
    return contents
