"""A node's stage where the recipe wants it. In a process of this machine, on a work pool, or in shards on the workers of a pool."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from attar.pipelines.recipe.execution import IN_PROCESS
from attar.pipelines.recipe.node import Node
from attar.pipelines.run.listener import Listener
from attar.pipelines.run.pool_run import PoolCall, run_on_pool, share_inputs, stored_artifact
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import RunRecord
from attar.stages.process import WorkOrder, one_line, run_in_process
from attar.stages.runtime.progress import Note, bar, listen


def run_stage(
    node: Node, order: WorkOrder, record: RunRecord, mlflow_run_id: str, listener: Listener
) -> tuple[Artifact, bool]:
    """Run a node's stage and return (artifact, was it reused). Raises StageFailed."""
    if node.execution == IN_PROCESS:
        return run_in_process(order, listener)
    call = PoolCall(
        pool=node.execution,
        parent=record.prefect_flow_run_id,
        run_id=record.id,
        node=node.name,
        order=order,
        key=node.stage.key(order.config, order.inputs),
        mlflow_run_id=mlflow_run_id,
    )
    if node.shards == 1:
        return run_on_pool(call, lambda text: listener(Note(text)))
    calls = [call.of_shard(Shard(index, node.shards)) for index in range(node.shards)]
    record.update(node.name, shards=[shard_call.key for shard_call in calls])  # gc keeps them until they are gathered
    return _run_in_shards(call, calls, listener)


def _run_in_shards(call: PoolCall, calls: Sequence[PoolCall], listener: Listener) -> tuple[Artifact, bool]:
    """Run all shards on the pool, each as a task of its own, and gather what they leave here. What is stored is not run again.

    Where a shard fails the others go on to their end: what they made stays, and the next run does the failed one alone.
    """
    store = Store(call.order.store_root)
    whole = None if call.order.is_forced else stored_artifact(call, store)
    if whole is not None:
        return whole, True
    share_inputs(call, store)  # once, not by each shard
    shards: dict[str, Any] = {}
    failures: list[Exception] = []
    with listen(listener), ThreadPoolExecutor(len(calls)) as threads:
        counter = bar("shards", len(calls), "shards")
        waiting = [
            threads.submit(contextvars.copy_context().run, _run_shard, shard_call, listener, shards, failures)
            for shard_call in calls
        ]
        for future in as_completed(waiting):
            future.result()
            counter.advance()
    if failures:
        raise failures[0]
    order = replace(call.order, shards=tuple(shards[shard_call.key] for shard_call in calls))
    return run_in_process(order, listener)


def _run_shard(call: PoolCall, listener: Listener, shards: dict[str, Any], failures: list[Exception]) -> None:
    """Run a shard as a task, and put down what it made or why it failed."""

    @task(name=call.node, task_run_name=call.node, cache_policy=NO_CACHE, persist_result=False)
    def run_shard() -> State:
        try:
            artifact, is_hit = run_on_pool(call, lambda text: listener(Note(f"shard {call.node.split()[-1]} {text}")))
        except Exception as error:  # noqa: BLE001 - raised for the node once all shards have ended
            failures.append(error)
            return Failed(message=one_line(error))
        shards[call.key] = artifact
        return Completed(name="Cached" if is_hit else "Completed", message=f"{artifact.kind} {artifact.key[:12]}")

    # Prefect counts the tasks of a key without a lock: two threads at once would get one task run
    run_shard.task_key = f"{run_shard.task_key}-{call.key[:12]}"
    run_shard(return_state=True)
