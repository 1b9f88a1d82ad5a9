"""Where a node runs. In a process of this machine, or as a flow run of its own on a work pool, such as one of GPU containers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from attar.compressors.catalogue import did_you_mean
from attar.stages.contract import Stage

IN_PROCESS = "in_process"
# Each is a flow run of its own, and a thread that waits for it.
MAX_SHARDS = 256
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


def node_shards(name: str, spec: Mapping[str, Any], pool: str, stages: Mapping[str, Stage[Any, Any, Any]]) -> int:
    """Return how many workers of its pool share a node's work. Raises ValueError for a number, a stage or a location that cannot be."""
    given, stage = spec.get("shards", 1), spec.get("stage")
    where = f"node {name!r}, shards = {given!r}"
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_SHARDS:
        raise ValueError(f"{where}: accepted: 1 to {MAX_SHARDS}")
    if given == 1:
        return given
    sharing = [known for known, entry in stages.items() if entry.sharding is not None]
    if isinstance(stage, str) and stage in stages and stage not in sharing:
        raise ValueError(f"{where}: one worker does {stage} whole; accepted: 1, or a node of {', '.join(sharing)}")
    if pool == IN_PROCESS:
        raise ValueError(f"{where}: the node runs {IN_PROCESS}; accepted: 1, or execution: a work pool")
    return given


def _checked(pool: Any, where: str) -> str:
    if not isinstance(pool, str) or not re.fullmatch(POOL_NAME, pool):
        raise ValueError(
            f"{where} = {pool!r}: accepted: {IN_PROCESS}, or the name of a work pool (lower-case letters, digits, - and _)"
        )
    return pool
