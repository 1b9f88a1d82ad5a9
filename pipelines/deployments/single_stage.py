"""Deployment `stage`: one stage by name, on whatever machine or container the work pool gives it. Artifact handles in and out."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.deployments import head_start  # noqa: F401 - starts the stages' imports
from attar.pipelines.deployments.workplace import enter_workplace, plain_console
from attar.pipelines.recipe.execution import MAX_SHARDS
from attar.pipelines.run.gpu_slot import gpu_slot
from attar.pipelines.run.listener import Listener
from attar.registry.artifacts import confinement
from attar.registry.artifacts.environment import num_cores
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.shared_store import fetch, share
from attar.registry.artifacts.store import Store
from attar.registry.tracking.runs import Tracker
from attar.stages.catalogue import STAGES
from attar.stages.contract import Stage
from attar.stages.process import StageFailed, WorkOrder, run_in_process, start_fork_server
from attar.stages.runtime.progress import hearing


class Handle(BaseModel):
    """An artifact in the store that all machines share: which stage made it, and its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str = Field(pattern=r"^[a-z_]+$", description="Stage that made it.")
    key: str = Field(pattern=r"^[0-9a-f]{64}$", description="Its key, 64 hexadecimal digits.")


@flow(name="stage", persist_result=True, result_serializer="json")
def stage(
    name: Annotated[str, Field(pattern=r"^[a-z_]+$")],
    config: dict[str, Any] = {},  # noqa: B006 - Prefect reads the default
    inputs: dict[str, list[Handle]] = {},  # noqa: B006
    mlflow_run_id: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = "",
    is_forced: bool = False,
    shard_index: Annotated[int, Field(ge=0)] = 0,
    num_shards: Annotated[int, Field(ge=0, le=MAX_SHARDS)] = 0,
) -> Any:
    """Run one stage on artifacts of the shared store and return the handle of what it made.

    Args:
        name: Name of the stage, as in `attar list stages`.
        config: The stage's config, as in a recipe.
        inputs: For each input slot, the handles of its artifacts.
        mlflow_run_id: MLflow run that the stage's model belongs to; empty for none.
        is_forced: Build even if a whole artifact lies in the store.
        shard_index: Which part of the work, counted from 0.
        num_shards: Of how many parts; 0 for the whole work.
    """
    if shard_index and not num_shards:
        raise ValueError(f"shard_index is {shard_index}, but num_shards is 0, the whole work; accepted: 0")
    home = enter_workplace()
    start_fork_server()
    order = _order(home, name, config, inputs, Shard(shard_index, num_shards) if num_shards else None)
    order = replace(order, is_forced=is_forced, environment=_environment(home, mlflow_run_id))
    try:
        artifact, is_hit = _shared_run(order, mlflow_run_id)
    except StageFailed as error:
        return Failed(message=error.cause)  # the reason, without "Flow run encountered an exception"
    made = {"stage": name, "key": artifact.key, "fingerprint": artifact.fingerprint, "kind": artifact.kind}
    return Completed(
        name="Cached" if is_hit else "Completed",
        message=f"{artifact.kind} {artifact.key[:12]}",
        data={**made, "is_hit": is_hit, "facts": dict(artifact.facts)},
    )


def _order(
    home: Path, name: str, config: dict[str, Any], inputs: dict[str, list[Handle]], shard: Shard | None
) -> WorkOrder:
    """Return what a stage is to do. Raises ValueError for a stage, a config or inputs that cannot be."""
    if name not in STAGES:
        raise ValueError(f"stage {name!r}: unknown.{did_you_mean(name, STAGES)}")
    chosen = STAGES[name]
    if shard is not None and chosen.sharding is None:
        raise ValueError(f"num_shards is {shard.count}, but one worker does {name} whole; accepted: 0")
    return WorkOrder(
        stage=name,
        config=chosen.config_type.model_validate(config),
        inputs=_inputs(chosen, Store(home), inputs),
        store_root=home,
        num_threads=num_cores(),
        shard=shard,
    )


def _shared_run(order: WorkOrder, mlflow_run_id: str) -> tuple[Artifact, bool]:
    """Run the stage unless another machine has made it, and let the others have what it makes."""
    store, key = Store(order.store_root), STAGES[order.stage].key(order.config, order.inputs)
    if not order.is_forced:
        fetch(store, order.stage, key if order.shard is None else order.shard.key(key))
    artifact, is_hit = _run(order, mlflow_run_id)
    share(store, artifact, is_forced=order.is_forced)
    return artifact, is_hit


def _environment(home: Path, mlflow_run_id: str) -> dict[str, str]:
    """Return what is set in the stage's process."""
    known = {"ATTAR_HOME": str(home)} | ({"ATTAR_MLFLOW_RUN_ID": mlflow_run_id} if mlflow_run_id else {})
    inherited = ("MLFLOW_TRACKING_URI", confinement.VARIABLE)
    return known | {name: os.environ[name] for name in inherited if name in os.environ}


def _run(order: WorkOrder, mlflow_run_id: str) -> tuple[Artifact, bool]:
    """Run the stage in a process of its own, a heavy one with the GPUs it asks for to itself; its numbers go to MLflow as they come."""
    console, tracker = plain_console(), Tracker(order.store_root)
    tracker.join(order.stage, mlflow_run_id)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    show = hearing(note=lambda note: say(note.text))
    chosen = STAGES[order.stage]
    is_light, num_cards = chosen.is_light(order.config), chosen.num_devices(order.config)
    try:
        with (
            nullcontext({}) if is_light else gpu_slot(order.store_root, say, num_cards) as visible,
            Listener(order.stage, tracker, show) as listener,
        ):
            return run_in_process(replace(order, environment=order.environment | visible), listener)
    finally:
        tracker.leave(order.stage)


def _inputs(chosen: Stage[Any, Any, Any], store: Store, given: dict[str, list[Handle]]) -> Any:
    """Load each handle, verified, into the stage's inputs. Raises ValueError for a slot, a kind or a key that does not fit."""
    values: dict[str, Any] = {}
    for slot_name, handles in given.items():
        if slot_name not in chosen.slots:
            raise ValueError(f"inputs.{slot_name}: unknown input.{did_you_mean(slot_name, chosen.slots)}")
        slot = chosen.slots[slot_name]
        artifacts = tuple(_load(store, handle, slot_name) for handle in handles)
        if not slot.is_many and len(artifacts) != 1:
            raise ValueError(f"inputs.{slot_name} takes one artifact, not {len(artifacts)}")
        for artifact in artifacts:
            if not slot.accepts(artifact):
                kinds = " or ".join(kind.kind for kind in slot.kinds)
                raise ValueError(f"inputs.{slot_name} takes {kinds}, not {artifact.kind}")
        values[slot_name] = artifacts if slot.is_many else artifacts[0]
    missing = [slot.name for slot in chosen.slots.values() if slot.is_required and not values.get(slot.name)]
    if missing:
        raise ValueError(f"inputs.{missing[0]}: missing")
    return chosen.input_type(**values)


def _load(store: Store, handle: Handle, slot: str) -> Artifact:
    if not fetch(store, handle.stage, handle.key):
        raise ValueError(f"inputs.{slot}: the store holds no {handle.stage} artifact {handle.key[:12]}")
    artifact = store.load(handle.stage, handle.key)
    store.verify(artifact)
    return artifact
