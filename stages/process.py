"""Run a stage in a process of its own. Its memory goes back when it ends, its threads are set once, and it dies with its parent.

The processes come from a fork server that has the heavy imports done, so that a node starts in milliseconds, not in the seconds torch needs.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from attar.registry.artifacts.disk_space import full_error
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.files import is_disk_full
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.kinds.shard_facts import Shard, ShardArtifact
from attar.registry.artifacts.store import Outcome, Store
from attar.stages.contract import Stage, StageConfig
from attar.stages.runtime.orphans import end_orphans
from attar.stages.runtime.process_group import start_without_main
from attar.stages.runtime.progress import Event, Metric, Note, emit, listen

OUR_PACKAGES = ("attar",)
PRELOAD = ("attar.stages.runtime.preload",)
# Python's own: how many new objects make it look for garbage.
GARBAGE_THRESHOLDS = (700, 10, 10)


@dataclass(frozen=True)
class WorkOrder:
    """One stage call, small enough to send to any process or container."""

    stage: str
    config: StageConfig
    inputs: Any
    store_root: Path
    num_threads: int
    expected_bytes: int = 0
    # build even if a whole artifact lies in the store
    is_forced: bool = False
    # one worker's part of the work; or what all workers left of it, to be gathered
    shard: Shard | None = None
    shards: tuple[ShardArtifact, ...] = ()
    # set in the stage's process: the fork server's own environment is as old as the server
    environment: dict[str, str] = field(default_factory=dict)
    # what libraries print goes here, not between the lines of the run; None: to this process's own output
    log_path: Path | None = None


class StageFailed(RuntimeError):
    """A stage ended badly; `cause` is its one-line reason, `details` the traceback (for --debug)."""

    def __init__(self, cause: str, details: str = "") -> None:
        super().__init__(cause)
        self.cause, self.details = cause, details


def start_fork_server() -> None:
    """Start the fork server now, so that its imports run while the caller does something else."""
    configure_process()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    from multiprocessing import forkserver  # no public name starts it without starting a child

    with _deaf_children():
        forkserver.ensure_running()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let what is started inside the block be deaf to Ctrl-C from its first moment: it imports for seconds before it says so itself,
    and would write a traceback into the terminal. The parent ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_in_process(order: WorkOrder, on_event: Callable[[Event], None]) -> tuple[Artifact, bool]:
    """Run a stage in a child process and return (artifact, was it reused). Raises StageFailed.

    Events of the stage reach `on_event` in this process, in order. If this process dies, the child ends itself.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child_main, args=(order, sender), name=f"attar-{order.stage}")
    start_without_main(child)
    sender.close()
    answer: tuple[str, Any, Any] | None = None
    try:
        while answer is None:
            try:
                message = receiver.recv()
            except EOFError:
                break
            if isinstance(message, tuple):
                answer = message
            else:
                on_event(message)
    except BaseException:
        child.terminate()
        raise
    finally:
        child.join()
    if answer is None:
        raise StageFailed(_death_cause(child.exitcode))
    verdict, first, second = answer
    if verdict == "failed":
        raise StageFailed(first, second)
    return first, second


def _child_main(order: WorkOrder, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    gc.freeze()  # what the fork server has imported stays, and its memory is shared until somebody writes to it
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    os.environ.update(order.environment)
    if order.log_path is not None:
        try:
            _print_to(order.log_path)
        except OSError as error:  # told by the node: a child that is gone says nothing
            cause = full_error(order.stage, order.store_root, 0, has_begun=False) if is_disk_full(error) else error
            sender.send(("failed", one_line(cause), traceback.format_exc()))
            return
    import torch  # already in memory: the fork server preloads it

    torch.set_num_threads(order.num_threads)
    logging.basicConfig(level=logging.WARNING)
    for package in OUR_PACKAGES:
        logging.getLogger(package).addHandler(_WarningNotes())
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            sender.send(message)

    from attar.stages.catalogue import STAGES  # the catalogue imports every stage, and a stage may import this module

    try:
        store = Store(order.store_root)
        with listen(send):
            outcome = _outcome(STAGES[order.stage], order, store)
        if not outcome.is_hit:
            send(Metric("peak_memory_bytes", store.manifest(outcome.artifact)["peak_bytes"]))
        send(("done", outcome.artifact, outcome.is_hit))
    except Exception as error:  # noqa: BLE001 - whatever ended the stage is reported by the parent, with its traceback
        send(("failed", one_line(error), traceback.format_exc()))
    sender.close()


def _outcome(stage: Stage[Any, Any, Any], order: WorkOrder, store: Store) -> Outcome[Any]:
    if order.shard is not None:
        return stage.execute_shard(order.config, order.inputs, store, order.shard, is_forced=order.is_forced)
    return stage.execute(
        order.config,
        order.inputs,
        store,
        expected_bytes=order.expected_bytes,
        is_forced=order.is_forced,
        shards=order.shards,
    )


class _WarningNotes(logging.Handler):
    """Our own warnings are worth a line of the run; other libraries' stay in the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        emit(Note(f"warning: {record.getMessage()}"))


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def one_line(error: BaseException) -> str:
    """Return an error as one line: the message alone for ours and users' errors, with its type otherwise."""
    message = " ".join(str(error).split()) or type(error).__name__
    is_plain = isinstance(error, (ValueError, OSError, StageFailed)) and not isinstance(error, json.JSONDecodeError)
    return message if is_plain else f"{type(error).__name__}: {message}"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_orphans()  # Prefect's server, which would stay for ever
        os._exit(137)


def _death_cause(exit_code: int | None) -> str:
    if exit_code == -9:
        return "its process was killed (SIGKILL): out of memory, or killed by hand"
    return f"its process ended without a result (exit code {exit_code})"
