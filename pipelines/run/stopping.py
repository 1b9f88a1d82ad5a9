"""Ends that are nobody's fault. Ctrl-C and SIGTERM stop a run at once, and runs that died without a word are closed by the next one."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from attar.pipelines.operate.service_state import ProcessMark
from attar.pipelines.run.console import RunConsole
from attar.pipelines.run.pool_run import cancel_open_children
from attar.registry.tracking.run_record import RunRecord, open_runs
from attar.registry.tracking.runs import Tracker

logger = logging.getLogger(__name__)


def stop_on_signals(record: RunRecord, console: RunConsole) -> None:
    """Make SIGINT and SIGTERM end the run and all its processes within a second, saying how to go on.

    Called inside the flow: Prefect sets its own handler for SIGTERM, and on Ctrl-C waits minutes for a server that got the signal too.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        try:
            cancel_open_children()
        except Exception as error:  # noqa: BLE001 - the server may be gone; this process goes all the same
            console.line("", f"work on pools could not be cancelled: {error}", "yellow")
        record.stop(f"stopped by {signal.Signals(number).name}")
        console.line(
            "", f"stopped by {signal.Signals(number).name}; run the same command again to go on from here", "yellow"
        )
        os._exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def close_dead_runs(home: Path, tracker: Tracker) -> None:
    """Mark runs whose process is gone as crashed. In their record, in Prefect and in MLflow, where they would run for ever."""
    for record in open_runs(home):
        if ProcessMark(record.pid, record.pid_created).process is not None:
            continue
        record.stop("its process was killed")
        logger.warning("run %s had been stopped or killed: closing it", record.id)
        tracker.close_dead_run(record.mlflow_run_id)
        try:
            if record.prefect_flow_run_id:
                with get_client(sync_client=True) as client:
                    client.set_flow_run_state(
                        UUID(record.prefect_flow_run_id), Crashed(message="its process was killed"), force=True
                    )
        except (ObjectNotFound, ValueError):  # an id of another server, or none at all
            logger.warning("Prefect does not know run %s: it ran on another server", record.id)
        record.close()
