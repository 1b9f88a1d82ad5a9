"""What follows once the nodes of a run have ended: report, tables, links and events. None of these can fail the run any more."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_table_artifact

from attar.pipelines.report.comparison import comparison_rows, stored_artifact
from attar.pipelines.run.announce import announce
from attar.registry.artifacts.store import Store
from attar.registry.release.gate import Ratio, known
from attar.registry.release.promotion import link_version
from attar.registry.release.retention import retention_rows
from attar.registry.tracking.run_record import PREDICTIONS, NodeRecord, RunRecord, run_records
from attar.registry.tracking.runs import Tracker
from attar.stages.evaluate.paired_evaluations import accuracy_ratio

logger = logging.getLogger(__name__)
# Of a home with more runs the newest are what predictions are made from: the end of a run waits for them.
MAX_EVIDENCE = 200


def finish_run(record: RunRecord, home: Path, tracker: Tracker) -> None:
    """Write the report, put tables and links into Prefect, tell of releases, close the MLflow run."""
    store = Store(home)
    report: Path | None = None
    try:
        _keep_predictions(record, store, tracker)
    except Exception as error:  # noqa: BLE001 - the figures are measured; only what they were expected to be is not kept
        logger.warning("what was predicted could not be kept: %s", error)
    try:
        # brings the plots: half a second that a run pays at its end, not before its first stage
        from attar.pipelines.report.page import write_report

        report = write_report(record, store)
    except Exception as error:  # noqa: BLE001 - every artifact is safe; `attar report` can be called again
        logger.warning("the report could not be written: %s", error)
    try:
        _tell_prefect(record, store, report, tracker)
    except Exception as error:  # noqa: BLE001
        logger.warning("Prefect did not take the run's artifacts: %s", error)
    for node in record.nodes.values():
        if node.stage == "register" and node.state in ("Completed", "Cached"):
            try:
                _tell_of_release(record, store, node)
            except Exception as error:  # noqa: BLE001 - the version is registered; its links and its event are not the model
                logger.warning("the release could not be linked or announced: %s", error)
    tracker.end("FAILED" if record.has_failed else "FINISHED", report)


def gate_rows(record: RunRecord, store: Store, node: NodeRecord) -> list[dict[str, Any]]:
    """Return the gate of a register node as a table. Its thresholds, then the retention of each task with a 95% interval."""
    release = json.loads((store.load(node.stage, node.key).path / "release.json").read_text())
    rows = [
        {
            "of": check["of"],
            "check": check["name"],
            "measured": f"{check['measured']:.4g} {check.get('known', '')}".rstrip(),
            "on": check.get("measured_on", ""),
            "limit": f"{'<=' if check['is_lower_better'] else '>='} {check['limit']:.4g}",
            "verdict": _verdict(check),
            "lets through": check.get("laxness", ""),
        }
        for check in release["checks"]
    ]
    for name in (*node.inputs["evaluation"], *node.inputs.get("onnx_evaluation", ())):
        rows += _retention(record, store, name, node.inputs["baseline"][0])
    return rows


def _keep_predictions(record: RunRecord, store: Store, tracker: Tracker) -> None:
    """Keep what earlier runs predicted beside what came, where anything new was measured."""
    if any(node.stage == "evaluate" and node.state == "Completed" for node in record.nodes.values()):
        from attar.pipelines.suggest.kept_predictions import keep_predictions  # brings torch: as the plots, at the end

        predictions = keep_predictions(record, run_records(store.root, MAX_EVIDENCE), store)
        tracker.log_table(PREDICTIONS, [prediction.as_row() for prediction in predictions])


def _verdict(check: dict[str, Any]) -> str:
    verdict = check.get("verdict") or ("passed" if check["has_passed"] else "failed")
    return f"{verdict}: {check['undecided']}" if check.get("undecided") else verdict


def _retention(record: RunRecord, store: Store, name: str, baseline: str) -> list[dict[str, Any]]:
    artifacts = [stored_artifact(record, store, node_name) for node_name in (name, baseline)]
    contents = [
        json.loads((artifact.path / "evaluation.json").read_text()) for artifact in artifacts if artifact is not None
    ]
    if len(contents) < 2:
        return []
    return [
        {
            "of": record.nodes[name].inputs["model"][0],
            "check": f"{row.task}: share of the original's accuracy",
            "measured": _ratio_text(
                accuracy_ratio(contents[0], contents[1], row.task) or Ratio(row.value, row.low, row.high)
            ),
            "on": f"{row.num_rows} questions",
            "limit": "",
            "verdict": "",
            "lets through": "",
        }
        for row in retention_rows(*contents)
    ]


def _ratio_text(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} {known(ratio.low, ratio.high)}".rstrip()


def _tell_prefect(record: RunRecord, store: Store, report: Path | None, tracker: Tracker) -> None:
    rows = comparison_rows(record, store)
    if rows:
        create_table_artifact(rows, key="before-after", description="Before and after, by model")
    if report is not None:
        # no browser follows a link from a server's page to a file: where MLflow is a server, its copy is the one to open
        link = tracker.page_of(report.name) or report.as_uri()
        create_link_artifact(
            link, key="report", link_text=f"Report of {record.id}", description="The whole run on one page"
        )
    for node in record.nodes.values():
        if node.stage == "register" and stored_artifact(record, store, _name(record, node)) is not None:
            rows = gate_rows(record, store, node)
            if rows:
                name = node.config["name"]
                create_table_artifact(rows, key="gate", description=f"Gate of {name}, and the retention of each task")


def _tell_of_release(record: RunRecord, store: Store, node: NodeRecord) -> None:
    release = store.load(node.stage, node.key)
    name, version = str(release.facts["name"]), str(release.facts["version"])
    links = {
        "attar.recipe": record.recipe,
        "attar.recipe_hash": record.recipe_fingerprint,
        "attar.run": record.id,
        "attar.prefect_flow_run": record.prefect_flow_run_id,
        "attar.mlflow_run": record.mlflow_run_id,
    }
    link_version(name, version, links, store)
    if node.state == "Completed":  # what was reused has been told before
        announce("model.registered", name, {**links, "version": version, "is_champion": release.facts["is_champion"]})


def _name(record: RunRecord, node: NodeRecord) -> str:
    return next(name for name, other in record.nodes.items() if other is node)
