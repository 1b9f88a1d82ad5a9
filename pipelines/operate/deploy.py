"""Create the work pool and its queues, and apply a prefect.yaml with its schemas closed to unknown parameters.

python -m attar.pipelines.operate.deploy PREFECT_YAML HEAVY_AT_ONCE
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.cli import app
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from attar.pipelines.operate.job_template import job_template
from attar.pipelines.operate.site import POOL
from attar.pipelines.operate.up import read_deployments
from attar.pipelines.operate.zombies import close_zombies

# Runs that take the machine's cores and memory wait for each other here; the rest passes by.
HEAVY_QUEUE = "heavy"


def apply(prefect_file: Path, heavy_at_once: int) -> list[str]:
    """Apply every deployment of the file to the server that PREFECT_API_URL names; return their names as flow/deployment."""
    with get_client(sync_client=True) as client:
        _make_pool(client, heavy_at_once)
        deploy_all(prefect_file)
        wanted = {entry["name"] for entry in read_deployments(prefect_file)}
        deployments = [deployment for deployment in _all_deployments(client) if deployment["name"] in wanted]
        for deployment in deployments:
            close_schema(client, deployment)
        close_zombies(client)
    return sorted(deployment["name"] for deployment in deployments)


def _make_pool(client: SyncPrefectClient, heavy_at_once: int) -> None:
    template = job_template("process", "", 0)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    client.update_work_pool(
        POOL, WorkPoolUpdate(base_job_template=template)
    )  # of a home that is older than the template
    try:
        queue = client.read_work_queue_by_name(HEAVY_QUEUE, work_pool_name=POOL)
        client.update_work_queue(queue.id, concurrency_limit=heavy_at_once)
    except ObjectNotFound:
        client.create_work_queue(HEAVY_QUEUE, work_pool_name=POOL, concurrency_limit=heavy_at_once)


def deploy_all(prefect_file: Path) -> None:
    """Apply every deployment of a file as `prefect deploy --all` does."""
    ours = sys.argv
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file)]
    try:
        app()  # in this process, where prefect is imported already: its start costs seconds
    except SystemExit as done:
        if done.code:
            raise
    finally:
        sys.argv = ours


def _all_deployments(client: SyncPrefectClient) -> list[dict[str, Any]]:
    return client.request("POST", "/deployments/filter", json={"limit": 200}).json()


def close_schema(client: SyncPrefectClient, deployment: dict[str, Any]) -> None:
    """Refuse parameters that the flow does not have: Prefect would let a misspelt one start a process and fail there."""
    schema = {**deployment["parameter_openapi_schema"], "additionalProperties": False}
    client.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": deployment["id"]},
        json={"parameter_openapi_schema": schema},
    )


if __name__ == "__main__":
    names = apply(Path(sys.argv[1]), int(sys.argv[2]))
    print()  # the CLI leaves its cursor where it was
    print(json.dumps(names))
