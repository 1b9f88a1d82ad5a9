"""What a worker starts for a flow run: wait until Prefect's server answers, then become Prefect's engine.

python -m attar.pipelines.operate.run_start

Prefect's client asks again when a connection it once had is refused, and not when the first one is: a run that starts while the server
restarts ends at once with `exited with non-zero status code 1`. Here the engine is started when the server answers, and again when it was
refused before the run had begun: it ends the process then, and what refused it stands in the context of that end alone.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from contextlib import suppress
from gc import set_threshold
from uuid import UUID

import httpx

from attar.pipelines.operate.health import wait_for_answer

# A server that restarts is back within a minute or two; an upgrade takes longer.
PATIENCE_SECONDS = 900.0
ENGINE = "prefect.engine"
COMMAND = "python -m attar.pipelines.operate.run_start"
# What a run says of itself before its flow has begun.
NOT_BEGUN = ("SCHEDULED", "PENDING")


def start_run(patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Run Prefect's engine in this process for the flow run that the environment names."""
    set_threshold(100_000)  # as in the command line: imports make half a million objects and no garbage
    deadline = time.monotonic() + patience_seconds
    while True:
        wait_for_answer(health_url(), deadline - time.monotonic())
        try:
            runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
            return
        except (httpx.TransportError, SystemExit) as end:
            refusal = refusal_behind(end)
            if refusal is None or not _may_start_again(deadline):
                raise
        print(f"attar: Prefect's server was away ({refusal}): starting the run again", file=sys.stderr)


def refusal_behind(end: BaseException) -> httpx.TransportError | None:
    """Return the error of a connection that ended the engine, if one did."""
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, httpx.TransportError):
        cause = cause.__cause__ or cause.__context__
    return cause


def health_url() -> str:
    """Return where Prefect's server says that it is well, which needs no password."""
    return f"{os.environ['PREFECT_API_URL'].rstrip('/')}/health"


def _may_start_again(deadline: float) -> bool:
    """Wait for the server, and say whether the run had not begun when it went."""
    while time.monotonic() < deadline and wait_for_answer(health_url(), deadline - time.monotonic()):
        with suppress(httpx.TransportError):  # it went again
            return _is_yet_to_begin()
    return False


def _is_yet_to_begin() -> bool:
    from prefect.client.orchestration import get_client  # after the wait: it takes seconds to import

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(os.environ["PREFECT__FLOW_RUN_ID"]))
    return run.state is None or run.state.type.value in NOT_BEGUN


if __name__ == "__main__":
    start_run()
