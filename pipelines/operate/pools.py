"""Work pools for stages. The pool, its job template, the deployment `stage` on it, and what keeps its runs from staying open for ever."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists

from attar.pipelines.operate.deploy import close_schema, deploy_all
from attar.pipelines.operate.job_template import PoolType, job_template
from attar.pipelines.operate.zombies import close_zombies
from attar.pipelines.recipe.execution import deployment_of


def make_pool(name: str, pool_type: PoolType, image: str, num_gpus: int, at_once: int | None) -> str:
    """Create or update a pool with its deployment `stage-NAME` on the server that PREFECT_API_URL names; return the deployment's name.

    Raises ValueError for an image without digest, or a pool of that name and another type.
    """
    template = job_template(pool_type, image, num_gpus)
    with get_client(sync_client=True) as client:
        _make(client, name, pool_type, template, at_once)
        _deploy_stage(client, name)
        close_zombies(client)
    return deployment_of(name)


def _make(
    client: SyncPrefectClient, name: str, pool_type: PoolType, template: dict[str, Any], at_once: int | None
) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
    existing = client.read_work_pool(name)
    if existing.type != pool_type:
        raise ValueError(
            f"pool {name!r} is there already, of type {existing.type}; choose another name for {pool_type}"
        )
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=at_once, base_job_template=template))


def _deploy_stage(client: SyncPrefectClient, pool: str) -> None:
    flow, deployment = deployment_of(pool).split("/")
    entry = {
        "name": deployment,
        "entrypoint": "attar.pipelines.deployments.single_stage.stage",
        "description": f"One stage by name on the pool {pool}, artifact handles in and out.",
        "tags": ["attar"],
        "work_pool": {"name": pool},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        # pull: [] - the flow is installed on the worker or in the image; nothing of this machine is baked in
        path.write_text(yaml.safe_dump({"name": "attar", "pull": [], "deployments": [entry]}))
        deploy_all(path)
    path = "/deployments/name/{flow_name}/{deployment_name}"
    response = client.request("GET", path, path_params={"flow_name": flow, "deployment_name": deployment})
    close_schema(client, response.json())
