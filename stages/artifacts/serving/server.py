"""Start an engine, wait until it answers, and end it with all that it started."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil

from attar.stages.artifacts.serving.engines import Engine, Served
from attar.stages.runtime.orphans import OWNER, end_tree, tree_of

TIMEOUT_SECONDS = 5.0
LOOP_SECONDS = 0.25
# Between two lines that say that it is not ready yet.
TELL_SECONDS = 5.0
GRACE_SECONDS = 10.0
# What an engine need not know: addresses and passwords of our servers, keys of registries.
PRIVATE = ("ATTAR_", "MLFLOW_", "PREFECT_", "AWS_")
# Nothing is fetched, and nothing told to anybody.
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class EngineFailedError(ValueError):
    """An engine ended, or did not become ready; the message ends with what its log says."""

    exit_code = 1


@dataclass(frozen=True)
class Server:
    """An engine that answers. `base_url`: where its API begins."""

    served: Served
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def base_url(self) -> str:
        """What a client of OpenAI's protocol is given."""
        return f"{self.served.url}/v1"

    def check_alive(self) -> None:
        """Raise EngineFailedError when it has ended."""
        if self.process.poll() is not None:
            raise EngineFailedError(f"the engine ended with exit code {self.process.returncode}{_last_words(self.log)}")


@contextmanager
def running(
    engine: Engine,
    served: Served,
    log: Path,
    *,
    seconds: float,
    say: Callable[[str], None] = lambda line: None,
    stopping: threading.Event | None = None,
) -> Iterator[Server]:
    """Give a server that is ready, and end it when the block does. Its output goes to the file `log`.

    Raises EngineFailedError when it ends before it is ready, is not within `seconds`, or when `stopping` is set meanwhile.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attar-serve-") as folder, log.open("wb") as output:
        (Path(folder) / served.name).symlink_to(served.folder, target_is_directory=True)
        process = subprocess.Popen(
            engine.command(served),
            env=engine_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for whoever started it, who ends it then
        )
        try:
            server = Server(served, process, log)
            _wait(server, engine, seconds, say, stopping or threading.Event())
            yield server
        finally:
            end_tree(tree_of(process.pid), grace_seconds=GRACE_SECONDS)
            process.wait()


def engine_environment() -> dict[str, str]:
    """Return this process's environment without what is private to Attar; the mark by which orphans are ended stays."""
    inherited = {name: value for name, value in os.environ.items() if name == OWNER or not name.startswith(PRIVATE)}
    return inherited | QUIET


def responds(url: str) -> bool:
    """Say whether the URL answers with a success."""
    try:
        # a proxy of the environment is for other machines
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            return 200 <= answer.status < 300
    except (OSError, urllib.error.URLError, ValueError):
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _wait(
    server: Server, engine: Engine, seconds: float, say: Callable[[str], None], stopping: threading.Event
) -> None:
    began = time.monotonic()
    last_line = began
    while not (responds(f"{server.served.url}{engine.health}") and _listens(server)):
        server.check_alive()
        now = time.monotonic()
        if stopping.is_set():
            raise EngineFailedError(f"stopped before {engine.name} was ready")
        if now - began > seconds:
            raise EngineFailedError(f"{engine.name} was not ready within {seconds:.0f} s{_last_words(server.log)}")
        if now - last_line >= TELL_SECONDS:
            last_line = now
            say(f"waiting for {engine.name}, {now - began:.0f} s")
        stopping.wait(LOOP_SECONDS)
    say(f"{engine.name} is ready after {time.monotonic() - began:.1f} s")


def _listens(server: Server) -> bool:
    """Say whether it is the engine that answers, and not another program that took its port meanwhile.

    Raises EngineFailedError where it listens to other machines and was to listen on loopback: its own options may say so.
    """
    addresses = set()
    for process in tree_of(server.process.pid):
        try:
            connections = process.net_connections("tcp")
        except psutil.AccessDenied:
            return True  # nobody can tell
        except psutil.NoSuchProcess:
            continue
        addresses |= {each.laddr for each in connections if each.status == psutil.CONN_LISTEN and each.laddr}
    own = [address.ip for address in addresses if address.port == server.served.port]
    if _is_loopback(server.served.host) and not all(map(_is_loopback, own)):
        raise EngineFailedError(
            f"the engine listens on {', '.join(own)}, not on {server.served.host} alone: it was ended"
        )
    return bool(own)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _last_words(log: Path) -> str:
    """Return the last line of a log as the end of a message, and where the rest is."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:300]} (log: {log})" if lines else ""
