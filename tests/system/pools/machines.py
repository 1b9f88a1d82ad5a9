"""A Prefect server and workers of two pools, each a process as the command line starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import psutil

from attar.stages.runtime.orphans import OWNER
from tests.databases import copy_database, start_on_copy
from tests.system.forked import attar_forked
from tests.system.operated import Api, until

Environment = dict[str, str]
LOOPBACK = "127.0.0.1"


class Machines:
    """A Prefect server and workers of two pools, each as the command line starts it; any may be killed and started again."""

    def __init__(self, workspace: Path, environment: Environment, port: int, host: str = LOOPBACK) -> None:
        self.workspace, self.home, self.port, self.host = workspace, workspace / "home", port, host
        self.environment = environment | {
            "ATTAR_HOME": str(self.home), "ATTAR_WORKSPACE": str(workspace), "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": f"http://{host}:{port}/api", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60", "PREFECT_WORKER_QUERY_SECONDS": "1",
            "ATTAR_GPU_HOST": "here",
            "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        (self.home / "prefect").mkdir(parents=True)
        self.api = Api(self.environment["PREFECT_API_URL"])
        self.started: list[subprocess.Popen[bytes]] = []

    def start_server(self) -> subprocess.Popen[bytes]:
        inherited = {k: v for k, v in self.environment.items() if not k.startswith("PREFECT_API")}
        words = ["attar.pipelines.operate.prefect_server", "server", "start", "--host", self.host]
        server = self.start("server", [*words, "--port", str(self.port)], inherited)
        self.until(lambda: self.is_up() or server.poll() is not None)
        assert server.poll() is None, self.log("server")
        return server

    def start_worker(self, pool: str, num_gpus: int, name: str = "") -> subprocess.Popen[bytes]:
        words = ["pipelines", "worker", pool]
        return self.start(name or f"worker-{pool}", words, self.environment | {"ATTAR_NUM_GPUS": str(num_gpus)})

    def shorten_silence(self) -> None:
        """Take a run for dead after less of it than a user's would be."""
        script = (
            "from prefect.client.orchestration import get_client; from attar.pipelines.operate.zombies import close_zombies\n"
            "with get_client(sync_client=True) as client: close_zombies(client, silence_seconds=45)"
        )
        subprocess.run([sys.executable, "-c", script], env=self.environment, check=True)

    def start(
        self, name: str, words: list[str], environment: Environment, before: tuple[str, ...] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a module of Python, or with `before`, which may be empty, a command behind another."""
        command = [sys.executable, "-m", *words] if before is None else [*before, *words]
        with (self.workspace / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=self.workspace, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        self.started.append(process)
        return process

    def attar(self, *words: str) -> subprocess.CompletedProcess[str]:
        return attar_forked(self.environment, *words, folder=self.workspace)

    def ask(self, path: str, body: Any = None) -> Any:
        return self.api.ask(path, body)

    def until(self, condition: Callable[[], Any], seconds: float = 200.0, what: str = "it did not happen") -> Any:
        """Wait; where it does not come, what every process of the machines has said last is the reason."""
        names = sorted(path.stem for path in self.workspace.glob("*.log"))
        return until(condition, seconds, lambda: "\n".join([what, *(f"{name}: {self.log(name)}" for name in names)]))

    def is_up(self) -> bool:
        try:
            return bool(self.ask("health"))
        except OSError:
            return False

    def stage_runs(self, node: str) -> list[dict[str, Any]]:
        """The flow runs that pools were asked for, for a node, oldest first."""
        body = {"flow_runs": {"name": {"like_": f"{node} of "}}, "sort": "START_TIME_ASC"}
        return sorted(self.ask("flow_runs/filter", body), key=lambda run: run["created"])

    def log(self, name: str) -> str:
        return (self.workspace / f"{name}.log").read_text()[-3000:]

    def survivors(self) -> list[str]:
        """Every process of a run of this home: all with the mark of an owner."""
        survivors = []
        for process in psutil.process_iter():
            try:
                values = process.environ()
                if values.get("ATTAR_HOME") == str(self.home) and OWNER in values:
                    survivors.append(" ".join(process.cmdline())[:200])
            except psutil.Error:
                continue
        return survivors

    def end(self) -> None:
        for process in reversed(self.started):
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


@contextmanager
def standing(
    workspace: Path,
    environment: Environment,
    session_folder: Path,
    mlflow_database: Path,
    pools: Sequence[str],
    host: str = LOOPBACK,
) -> Iterator[Machines]:
    """Give a server with pools, on copies of databases that are made already."""
    with socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    made = Machines(workspace, environment, port, host)
    copy_database(mlflow_database, made.home / "mlflow.db")
    try:
        start_on_copy(session_folder / "prefect.db", made.home / "prefect" / "prefect.db", made.start_server)
        done = made.attar("pool", *pools)
        assert done.returncode == 0 and f"attar worker {pools[-1]}" in done.stdout, done.stdout + done.stderr
        yield made
    finally:
        made.end()


def kill_tree(pid: int) -> None:
    """What a machine's end is to its processes: SIGKILL to all of them."""
    top = psutil.Process(pid)
    for process in (*top.children(recursive=True), top):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
