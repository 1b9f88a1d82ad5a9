"""A busy Prefect server on SQLite, as Prefect starts it and as Attar does: runs that went through, requests refused, longest silence.

python benchmarks/operate/busy_server.py [--num-clients 4] [--seconds 60]

Each client makes a flow run, moves it through its states and sends what a run of Attar sends meanwhile: heartbeats, which Attar's two
automations look at, task runs, artifacts and logs. Nothing is computed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from attar.pipelines.operate.health import is_healthy
from attar.pipelines.operate.site import SETTINGS

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

PORT = 4397
API = f"http://127.0.0.1:{PORT}/api"
STARTUP_SECONDS = 120.0
# A silence lasts a minute: whoever asks waits longer.
PATIENCE_SECONDS = 150.0
SERVERS = {"as Prefect starts it": "prefect", "as Attar starts it": "attar.pipelines.operate.prefect_server"}
# In a process of its own: Prefect reads where its API is when it is imported.
AUTOMATIONS = """
from prefect.client.orchestration import get_client
from attar.pipelines.operate.zombies import close_zombies
close_zombies(get_client(sync_client=True))
"""
BETWEEN_POLLS = threading.Event()


@dataclass
class Measured:
    """What the clients of one server saw."""

    num_runs: int = 0
    num_refused: int = 0
    longest_silence: float = 0.0


def main(
    num_clients: Annotated[int, typer.Option(min=1)] = 4, seconds: Annotated[int, typer.Option(min=1)] = 60
) -> None:
    """Load both servers, one after the other, and print what their clients saw."""
    print(
        f"{num_clients} clients\n\n| server | runs a minute | requests refused (503) | longest silence, s |\n|---|---|---|---|"
    )
    for name, module in SERVERS.items():
        latencies = measure(module, num_clients, seconds)
        rate = 60 * latencies.num_runs / seconds
        print(f"| {name} | {rate:.0f} | {latencies.num_refused} | {latencies.longest_silence:.1f} |", flush=True)


def measure(module: str, num_clients: int, seconds: float) -> Measured:
    """Start the server in an empty home, with Attar's automations, and load it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = SETTINGS | os.environ | {"PREFECT_HOME": folder}
        command = [sys.executable, "-m", module, "server", "start", "--port", str(PORT)]
        with (Path(folder) / "server.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until_up(server)
            subprocess.run([sys.executable, "-c", AUTOMATIONS], env=environment | {"PREFECT_API_URL": API}, check=True)
            return asyncio.run(load(num_clients, time.monotonic() + seconds))
        finally:
            server.kill()
            server.wait()


def wait_until_up(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not is_healthy(f"{API}/health"):
        if time.monotonic() > deadline or server.poll() is not None:
            raise RuntimeError("the server did not start")
        BETWEEN_POLLS.wait(0.5)


async def load(num_clients: int, end: float) -> Measured:
    measured = Measured()
    async with httpx.AsyncClient(base_url=API, timeout=PATIENCE_SECONDS, trust_env=False) as client:
        flow = (await client.post("/flows/", json={"name": "load"})).json()["id"]
        await asyncio.gather(
            watch_health(client, measured, end), *(runs(client, flow, measured, end) for _ in range(num_clients))
        )
    return measured


async def watch_health(client: httpx.AsyncClient, measured: Measured, end: float) -> None:
    while time.monotonic() < end:
        asked_at = time.monotonic()
        await client.get("/health")
        measured.longest_silence = max(measured.longest_silence, time.monotonic() - asked_at)
        await asyncio.sleep(0.2)


async def runs(client: httpx.AsyncClient, flow: str, measured: Measured, end: float) -> None:
    async def post(path: str, body: Any) -> Any:
        """Ask until it is answered, as Prefect's own client does."""
        while True:
            answer = await client.post(path, json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                answer.raise_for_status()
                return answer.json() if answer.content else None
            measured.num_refused += 1
            if time.monotonic() > end:
                raise TimeoutError
            await asyncio.sleep(0.1)

    while time.monotonic() < end:
        try:
            await one_run(post, flow)
        except TimeoutError:
            return
        measured.num_runs += 1


async def one_run(post: Any, flow: str) -> None:
    """Tell the server what it hears of one run from its creation to its end."""
    run = (await post("/flow_runs/", {"flow_id": flow, "tags": ["attar"], "state": {"type": "SCHEDULED"}}))["id"]

    def state(kind: str, name: str) -> Awaitable[Any]:
        return post(f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": name}, "force": True})

    async def beat() -> None:
        for _ in range(3):
            await post("/events", [heartbeat(run), heartbeat(run)])

    async def work() -> None:
        for index in range(2):
            body = {"flow_run_id": run, "task_key": "node", "dynamic_key": str(index), "state": {"type": "RUNNING"}}
            task = (await post("/task_runs/", body))["id"]
            await post(f"/task_runs/{task}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
            await post("/artifacts/", {"key": "progress", "type": "markdown", "data": "half", "flow_run_id": run})
            entry = {"name": "load", "level": 20, "message": "half", "timestamp": now(), "flow_run_id": run}
            await post("/logs/", [entry])

    for kind, name in (("PENDING", "Pending"), ("PENDING", "Submitting"), ("RUNNING", "Running")):
        await state(kind, name)
    await asyncio.gather(beat(), work())
    await state("COMPLETED", "Completed")


def heartbeat(run: str) -> dict[str, Any]:
    related = [{"prefect.resource.id": "prefect.tag.attar", "prefect.resource.role": "tag"}]
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    name = "prefect.flow-run.heartbeat"
    return {"occurred": now(), "event": name, "resource": resource, "related": related, "id": str(uuid.uuid4())}


def now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
