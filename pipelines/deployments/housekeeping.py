"""Deployment `gc`: free the disk of what no registered model and no recent run needs."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_table_artifact
from pydantic import Field

from attar.pipelines.deployments.workplace import enter_workplace
from attar.registry.release.collect import UNFINISHED, collect_garbage


@flow(name="gc", flow_run_name="gc", persist_result=True, result_serializer="json")
def gc(
    keep_runs: Annotated[int, Field(ge=0, le=10_000)] = 10,
    dry_run: bool = False,
) -> dict[str, float]:
    """Delete artifacts that neither a registered model nor a recent run needs.

    Args:
        keep_runs: Keep what this many of the newest runs made.
        dry_run: Delete nothing.
    """
    removed = collect_garbage(enter_workplace(), keep_runs=keep_runs, is_dry_run=dry_run)
    rows = [
        {"stage": artifact["stage"], "key": artifact["key"][:12], "MB": f"{artifact['num_bytes'] / 1e6:,.1f}"}
        for artifact in removed
    ]
    if rows:
        create_table_artifact(rows, key="gc", description="Would go" if dry_run else "Gone")
    num_unfinished = sum(artifact["stage"] == UNFINISHED for artifact in removed)
    return {
        "num_artifacts": len(removed) - num_unfinished,
        "num_work_folders": num_unfinished,
        "num_bytes": float(sum(artifact["num_bytes"] for artifact in removed)),
    }
