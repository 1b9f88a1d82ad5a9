"""Run a node as a flow run of its own on a work pool. Asked for once, waited for through restarts of the server, its end looked at.

Only names travel: the stage, its config and the keys of its inputs. The artifact lies in the store that both sides mount.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling, State

from attar.pipelines.operate.prefect_home import RUN_TAG
from attar.pipelines.recipe.execution import deployment_of
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.shared_store import fetch, share
from attar.registry.artifacts.store import CorruptArtifactError, Store
from attar.stages.contract import by_slot
from attar.stages.process import StageFailed, WorkOrder

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
# A server that restarts is back within a minute or two; a run of hours should outlive its upgrade.
PATIENCE_SECONDS = 900.0
# A machine that dies is bad luck once, twice; at the third time it is the stage (out of memory, as a rule).
MAX_CRASHES = 3
P = ParamSpec("P")
T = TypeVar("T")
# Children of this process that have not ended: whoever stops this process stops them.
_open: set[UUID] = set()
# Prefect counts the runs that a flow asks for without a lock: two threads at once would share the task run that stands for theirs.
_asking = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class PoolCall:
    """One node's work for a pool. `parent` is the flow run that asks; `life` counts the flow runs asked for so far for this work."""

    pool: str
    parent: str
    run_id: str
    node: str
    order: WorkOrder
    key: str
    mlflow_run_id: str
    life: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same for the same work of the same parent. Asked for again after a retry, the server answers with the run that is there."""
        return f"{self.parent}-{self.node}-{self.key}-{self.life}"

    def of_shard(self, shard: Shard) -> PoolCall:
        """Return the call for one worker's part of the work. MLflow has a node's numbers once, from what is gathered."""
        node, order = f"{self.node} {shard.index + 1}/{shard.count}", replace(self.order, shard=shard)
        return replace(self, node=node, order=order, key=shard.key(self.key), mlflow_run_id="")

    def parameters(self, store: Store) -> dict[str, Any]:
        """Return what the deployment `stage` is called with: plain JSON, names and keys only."""
        inputs = {
            slot: [{"stage": store.manifest(artifact)["stage"], "key": artifact.key} for artifact in artifacts]
            for slot, artifacts in by_slot(self.order.inputs).items()
        }
        shard = self.order.shard
        return {
            "name": self.order.stage,
            "config": self.order.config.model_dump(mode="json"),
            "inputs": inputs,
            "mlflow_run_id": self.mlflow_run_id,
            "is_forced": self.order.is_forced,
            **({} if shard is None else {"shard_index": shard.index, "num_shards": shard.count}),
        }


def check_pools(pools: Iterable[str]) -> None:
    """Raise ValueError naming the first pool that cannot run a stage: no lasting server, or no deployment on it."""
    wanted = sorted(set(pools))
    if not wanted:
        return
    if not os.environ.get("PREFECT_API_URL"):
        raise ValueError(
            f"execution: {wanted[0]} needs a server with workers; run `attar up`, then `attar pool {wanted[0]}`"
        )
    with get_client(sync_client=True) as client:
        for pool in wanted:
            try:
                client.read_deployment_by_name(deployment_of(pool))
            except ObjectNotFound as error:
                raise ValueError(
                    f"execution: the server has no deployment {deployment_of(pool)}; `attar pool {pool}` makes it"
                ) from error


def run_on_pool(call: PoolCall, say: Callable[[str], None]) -> tuple[Artifact, bool]:
    """Run a node's stage on its pool and return (artifact, was it reused). Raises StageFailed with the child's reason.

    What is stored already wakes no pool. A child that crashed is asked for again, and goes on at its last shard or checkpoint; one that
    failed is not.
    """
    store, num_crashes = Store(call.order.store_root), 0
    stored = None if call.order.is_forced else stored_artifact(call, store)
    if stored is not None:
        return stored, True
    share_inputs(call, store)
    while True:
        child = _patiently(_ask, call, store)
        if child.state is not None and child.state.is_final() and not child.state.is_completed():
            call = replace(call, life=call.life + 1)  # it ended before this process was there: a retry wants another
            continue
        say(f"on pool {call.pool} as {child.name}")
        state = _wait(child.id, say)
        if state.is_completed():
            return _made(call, store), state.name == "Cached"
        num_crashes += 1
        if not state.is_crashed() or num_crashes >= MAX_CRASHES:
            raise StageFailed(f"on pool {call.pool}: {_reason(state)}")
        say(f"crashed on pool {call.pool} ({_reason(state)}): going on from its last checkpoint")
        call = replace(call, life=call.life + 1)


def share_inputs(call: PoolCall, store: Store) -> None:
    """Let the pool's machines have what the work reads, where they share no folder."""
    for artifacts in by_slot(call.order.inputs).values():
        for artifact in artifacts:
            share(store, artifact)


def cancel_open_children() -> None:
    """Cancel the flow runs that this process waits for, so that no pool works for a run that is stopped."""
    if not _open:
        return
    with get_client(sync_client=True) as client:
        for child in list(_open):
            client.set_flow_run_state(child, Cancelling(message="its parent was stopped"), force=True)


def _ask(call: PoolCall, store: Store) -> FlowRun:
    with _asking:
        return run_deployment(  # type: ignore[return-value] - sync here
            deployment_of(call.pool),
            parameters=call.parameters(store),
            flow_run_name=f"{call.node} of {call.run_id}",
            idempotency_key=call.idempotency_key,
            tags=[RUN_TAG, f"attar-run:{call.run_id}"],
            timeout=0,
        )


def _wait(child: UUID, say: Callable[[str], None]) -> State:
    """Return the child's final state."""
    pause, last = threading.Event(), ""
    _open.add(child)
    try:
        with get_client(sync_client=True) as client:
            while True:
                state = _patiently(_state, client, child)
                if state.is_final():
                    return state
                if state.name != last:
                    last = state.name or ""
                    say(f"{last.lower()} on the pool")
                pause.wait(POLL_SECONDS)
    finally:
        _open.discard(child)


def _state(client: SyncPrefectClient, child: UUID) -> State:
    state = client.read_flow_run(child).state
    assert state is not None, "a run of a deployment is scheduled when it is made"
    return state


def _patiently(ask: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Ask the server, and again while it restarts."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, 1.0
    while True:
        try:
            return ask(*arguments, **keywords)
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            is_refusal = isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500
            if is_refusal or time.monotonic() > deadline:
                raise StageFailed(f"Prefect's server: {' '.join(str(error).split())}") from error
        threading.Event().wait(pause)
        pause = min(2 * pause, 15.0)


def _made(call: PoolCall, store: Store) -> Artifact:
    if call.order.is_forced:
        fetch(store, call.order.stage, call.key, is_forced=True)
    artifact = stored_artifact(call, store)  # verified: it has come over a file system of several machines
    if artifact is None:
        raise StageFailed(
            f"pool {call.pool} has finished, but {store.root} holds no whole artifact {call.key[:12]}:"
            " ATTAR_HOME must be the same shared folder on both sides, or ATTAR_SHARED_STORE the same object store"
        )
    return artifact


def stored_artifact(call: PoolCall, store: Store) -> Artifact | None:
    """Return the verified artifact of a call, if it is there."""
    if not fetch(store, call.order.stage, call.key):
        return None
    artifact = store.load(call.order.stage, call.key)
    try:
        store.verify(artifact)
    except CorruptArtifactError as error:
        logger.warning("stored %s artifact %s is damaged (%s)", call.order.stage, call.key[:12], error)
        return None  # whoever builds it next removes it
    return artifact


def _reason(state: State) -> str:
    return " ".join((state.message or state.name or "no reason given").split())
