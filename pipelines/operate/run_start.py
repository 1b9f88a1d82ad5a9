"""What a worker starts for a flow run: wait until Prefect's server answers, then become Prefect's engine.

python -m attar.pipelines.operate.run_start

Prefect's client asks again when a connection it once had is refused, and not when the first one is: a run that starts while the server
restarts ends at once with `exited with non-zero status code 1`. Here the engine is started when the server answers, and once more when
it was refused before the run had begun.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
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
        except httpx.TransportError as error:
            wait_for_answer(health_url(), deadline - time.monotonic())
            if time.monotonic() > deadline or not _is_yet_to_begin():
                raise
            print(f"attar: Prefect's server was away ({error}): starting the run again", file=sys.stderr)


def health_url() -> str:
    """Return where Prefect's server says that it is well, which needs no password."""
    return f"{os.environ['PREFECT_API_URL'].rstrip('/')}/health"


def _is_yet_to_begin() -> bool:
    from prefect.client.orchestration import get_client  # after the wait: it takes seconds to import

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(os.environ["PREFECT__FLOW_RUN_ID"]))
    return run.state is None or run.state.type.value in NOT_BEGUN


if __name__ == "__main__":
    start_run()
