"""Deployment `compare`: what differs between two runs, as tables in Prefect, without a command line."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed
from pydantic import Field

from attar.pipelines.deployments.workplace import enter_workplace
from attar.pipelines.report.difference import RunDifference
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import find_run

RunId = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=200)]


@flow(name="compare", flow_run_name="compare {first} and {second}", persist_result=True, result_serializer="json")
def compare(first: RunId, second: RunId = "latest") -> Any:
    """Say what differs between two runs: fields of their recipes, what they made, and figures with second / first.

    Args:
        first: Start of a run's id, as its report and `attar list runs` show it.
        second: The run beside it; latest is the newest.
    """
    home = enter_workplace()
    runs = tuple((find_run(home, run_id), Store(home)) for run_id in (first, second))
    difference = RunDifference.of(*runs)
    names = [record.id for record, _ in runs]
    tables = difference.tables()
    for kind, rows in tables.items():
        if rows:
            create_table_artifact(rows, key=f"compare-{kind}", description=f"{kind} of {names[0]} and {names[1]}")
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in tables.items())
    return Completed(
        message=f"{names[0]} and {names[1]}: {counts} differ", data={"runs": names, **difference.as_dict()}
    )
