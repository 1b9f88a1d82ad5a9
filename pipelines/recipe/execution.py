"""Where a node runs. In a process of this machine, or as a flow run of its own on a work pool, such as one of GPU containers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from attar.compressors.catalogue import did_you_mean

IN_PROCESS = "in_process"
POOL_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"


def deployment_of(pool: str) -> str:
    """Return the deployment that runs one stage on a pool, as flow/deployment."""
    return f"stage/stage-{pool}"


def stage_pools(given: Any, stages: Collection[str]) -> dict[str, str]:
    """Return `execution:` of a recipe, a pool by stage name. Raises ValueError for a stage or pool name that cannot be."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"recipe, execution = {given!r}: accepted: stage names with {IN_PROCESS} or a work pool each")
    for stage in given:
        if stage not in stages:
            raise ValueError(f"recipe, execution.{stage}: unknown stage.{did_you_mean(str(stage), stages)}")
    return {stage: _checked(pool, f"recipe, execution.{stage}") for stage, pool in given.items()}


def node_pool(name: str, spec: Mapping[str, Any], by_stage: Mapping[str, str]) -> str:
    """Return the pool of a node. What it says itself, else what the recipe says of its stage, else in this machine's processes."""
    if "execution" in spec:
        return _checked(spec["execution"], f"node {name!r}, execution")
    return by_stage.get(str(spec.get("stage")), IN_PROCESS)


def _checked(pool: Any, where: str) -> str:
    if not isinstance(pool, str) or not re.fullmatch(POOL_NAME, pool):
        raise ValueError(
            f"{where} = {pool!r}: accepted: {IN_PROCESS}, or the name of a work pool (lower-case letters, digits, - and _)"
        )
    return pool
