"""The Prefect flow: one flow run a recipe run, one task run a node."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task, flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from attar.pipelines.operate.prefect_home import RUN_TAG, await_prefect
from attar.pipelines.recipe.execution import IN_PROCESS
from attar.pipelines.recipe.node import Node
from attar.pipelines.recipe.plan import PlannedNode, lack_of_disk, stage_inputs
from attar.pipelines.recipe.whole import Recipe
from attar.pipelines.run.console import RunConsole, WarningLines
from attar.pipelines.run.finish import finish_run
from attar.pipelines.run.listener import Listener
from attar.pipelines.run.node_run import run_stage
from attar.pipelines.run.overlaps import Overlaps
from attar.pipelines.run.pool_run import check_pools
from attar.pipelines.run.resources import ResourcePool
from attar.pipelines.run.stopping import close_dead_runs, stop_on_signals
from attar.registry.artifacts import confinement
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.rates import learn_rate
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder
from attar.registry.tracking.runs import Tracker
from attar.stages.contract import by_slot
from attar.stages.process import OUR_PACKAGES, StageFailed, WorkOrder, one_line
from attar.stages.runtime.progress import Event

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """All that the nodes of one recipe run share."""

    recipe: Recipe
    home: Path
    record: RunRecord
    console: RunConsole
    tracker: Tracker
    pool: ResourcePool
    forced: frozenset[str]
    plan: Mapping[str, PlannedNode]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    overlaps: Overlaps = field(default_factory=Overlaps)
    started: float = field(default_factory=time.monotonic)


def run_recipe(
    recipe: Recipe, plan: list[PlannedNode], home: Path, *, forced: frozenset[str], num_workers: int, console: Console
) -> RunRecord:
    """Run a planned recipe as a Prefect flow of its own and return its record. Failed nodes are in the record, not raised."""
    with _prepared(recipe, plan, home, forced, num_workers, console) as run:
        # Made here, around the run: Prefect would store whatever were passed as a parameter.
        @flow(
            name=f"attar-{recipe.name}",
            flow_run_name=run.record.id,
            persist_result=False,
            task_runner=ThreadPoolTaskRunner(max_workers=len(recipe.nodes)),  # type: ignore[arg-type] - one thread a waiting node
        )
        def recipe_flow(recipe: str, recipe_hash: str) -> State:
            return _run_nodes(run)

        with tags(RUN_TAG):
            state = recipe_flow(recipe.name, recipe.fingerprint, return_state=True)  # type: ignore[call-arg]
        if not state.is_completed() and not run.record.has_failed:
            state.result()  # no node's failure but the run's own: raised here, or it would pass for a run that is done
        return run.record


def run_in_flow(
    recipe: Recipe, plan: list[PlannedNode], home: Path, console: Console, forced: frozenset[str] = frozenset()
) -> tuple[RunRecord, State]:
    """Run a planned recipe inside the flow that calls, one of its tasks a node, each in a thread. Return the record and the end state."""
    with _prepared(recipe, plan, home, forced, 0, console) as run:
        return run.record, _run_nodes(run)


@contextmanager
def _prepared(
    recipe: Recipe,
    plan: list[PlannedNode],
    home: Path,
    forced: frozenset[str],
    num_workers: int,
    console: Console,
) -> Iterator[Run]:
    await_prefect(home, lambda text: console.print(text, highlight=False))
    check_pools(node.execution for node in recipe.nodes.values() if node.execution != IN_PROCESS)
    nodes = {
        node.name: NodeRecord(
            node.stage.name,
            node.config.model_dump(mode="json"),
            {slot: list(names) for slot, names in node.inputs.items()},
        )
        for node in recipe.nodes.values()
    }
    record = RunRecord(new_run_folder(home, recipe.name), recipe.name, recipe.fingerprint, nodes, recipe.description)
    record.begin()
    with RunConsole(console) as shown, _warnings_shown(shown):
        if lack := lack_of_disk(plan, home):
            logger.warning("%s", lack)
        pool, by_name = ResourcePool(num_workers), {planned.node.name: planned for planned in plan}
        yield Run(recipe, home, record, shown, Tracker(home), pool, forced, by_name)


@contextmanager
def _warnings_shown(shown: RunConsole) -> Iterator[None]:
    handler = WarningLines(shown)
    for package in OUR_PACKAGES:
        logging.getLogger(package).addHandler(handler)
    try:
        yield
    finally:
        for package in OUR_PACKAGES:
            logging.getLogger(package).removeHandler(handler)


def _run_nodes(run: Run) -> State:
    started = run.started
    stop_on_signals(run.record, run.console)
    close_dead_runs(run.home, run.tracker)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        run.record.prefect_flow_run_id = str(context.flow_run.id)
    run_id = run.record.id
    marks = {"attar.recipe": run.recipe.name, "attar.recipe_hash": run.recipe.fingerprint, "attar.run": run_id}
    marks |= {"attar.control": run.recipe.control} if run.recipe.control else {}
    chosen = {
        node.name: node.config.model_dump(mode="json", exclude_defaults=True) for node in run.recipe.nodes.values()
    }
    run.tracker.start(run_id, tags={**marks, "attar.prefect_flow_run": run.record.prefect_flow_run_id}, config=chosen)
    run.record.mlflow_run_id = run.tracker.run_id
    run.record.save()
    futures: dict[str, PrefectFuture[Any]] = {}
    for node in run.recipe.nodes.values():
        upstream = [futures[name] for name in sorted(node.upstream)]
        futures[node.name] = _node_task(run, node).submit(node.stage.name, wait_for=upstream)
    states = {name: _final_state(future) for name, future in futures.items()}
    for name in states:
        if run.record.nodes[name].state == "Pending":
            run.record.update(name, state="Skipped", cause="a node before it failed")
            run.console.line(name, "skipped: a node before it failed", "yellow")
    run.record.seconds = round(time.monotonic() - started, 3)
    run.record.close()
    finish_run(run.record, run.home, run.tracker)
    failed = [name for name, node in run.record.nodes.items() if node.state == "Failed"]
    return Failed(message=f"failed: {', '.join(failed)}") if failed else Completed(message="all nodes done")


def _node_task(run: Run, node: Node) -> Task[..., State]:
    planned = run.plan[node.name]

    # No tags: for each, Prefect asks for a slot through a client of its own, which fails at once while a server restarts.
    @task(name=node.name, task_run_name=node.name, cache_policy=NO_CACHE, persist_result=False)
    def run_node(stage: str) -> State:
        is_here = node.execution == IN_PROCESS
        memory_bytes = planned.forecast.peak_memory_bytes if is_here else 0.0
        with run.pool.claim(memory_bytes, node.stage.is_light(node.config) or not is_here) as num_threads:
            return _run_node(run, node, planned, num_threads)

    return run_node


def _run_node(run: Run, node: Node, planned: PlannedNode, num_threads: int) -> State:
    started = time.monotonic()
    inputs = stage_inputs(node, run.artifacts)
    run.record.update(node.name, state="Running", started_seconds=round(started - run.started, 3))
    run.console.node_started(node.name, node.stage.name)
    run.tracker.start_node(node.name, config=node.config.model_dump(mode="json"), tags={"attar.stage": node.stage.name})
    for slot, artifacts in by_slot(inputs).items():
        for artifact in artifacts:
            if artifact.holds_rows:
                run.tracker.log_input(node.name, slot, artifact)
    order = WorkOrder(
        stage=node.stage.name,
        config=node.config,
        inputs=inputs,
        store_root=run.home,
        num_threads=num_threads,
        expected_bytes=int(planned.forecast.disk_bytes),
        is_forced=node.name in run.forced,
        log_path=run.record.folder / "logs" / f"{node.name}.log",
        environment={"ATTAR_HOME": str(run.home), "ATTAR_MLFLOW_RUN_ID": run.tracker.node_run_id(node.name)}
        | {name: os.environ[name] for name in (confinement.VARIABLE,) if name in os.environ},
    )

    def show(event: Event) -> None:
        run.console.event(node.name, event)

    try:
        with Listener(node.name, run.tracker, show) as listener:
            artifact, is_hit = run_stage(node, order, run.record, run.tracker.node_run_id(node.name), listener)
        return _node_done(run, node, artifact, is_hit, time.monotonic() - started)
    except StageFailed as error:
        return _node_failed(run, node, error, time.monotonic() - started)
    except Exception as error:  # noqa: BLE001 - what the run does beside the stage: left to Prefect, the node would run for ever
        failure = StageFailed(one_line(error), traceback.format_exc())
        return _node_failed(run, node, failure, time.monotonic() - started)


def _node_done(run: Run, node: Node, artifact: Artifact, is_hit: bool, seconds: float) -> State:
    run.artifacts[node.name] = artifact
    for line in run.overlaps.add(node.name, node.stage.name, artifact):
        logger.warning("%s", line)
    state = "Cached" if is_hit else "Completed"
    if not is_hit and node.execution == IN_PROCESS:
        forecast = run.plan[node.name].forecast
        learn_rate(run.home, node.stage.name, forecast.num_flops, forecast.disk_bytes, seconds)
    run.record.update(
        node.name, state=state, key=artifact.key, fingerprint=artifact.fingerprint, seconds=round(seconds, 3)
    )
    text = f"cached ({artifact.key[:12]})" if is_hit else f"done in {seconds:.1f} s ({artifact.key[:12]})"
    run.console.node_ended(node.name, text, "dim" if is_hit else "green")
    run.tracker.end_node(node.name, "FINISHED", artifact)
    return Completed(name=state, message=f"{node.name}: {artifact.kind} {artifact.key[:12]}", data=None)


def _node_failed(run: Run, node: Node, error: StageFailed, seconds: float) -> State:
    run.record.update(node.name, state="Failed", cause=error.cause, details=error.details, seconds=round(seconds, 3))
    run.console.node_ended(node.name, f"failed: {error.cause}", "red")
    run.tracker.end_node(node.name, "FAILED", None)
    return Failed(message=error.cause)


def _final_state(future: PrefectFuture[Any]) -> State:
    future.wait()
    return future.state
