"""Ask a server whether it is well, and a port whether it is free."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.error
import urllib.request

import psutil

from attar.pipelines.operate.postgres import is_ready
from attar.stages.artifacts.serving.server import TIMEOUT_SECONDS, responds

BETWEEN_SECONDS = 0.5


def is_healthy(url: str) -> bool:
    """Say whether the URL answers with a success; of postgres://HOST:PORT, when it takes connections."""
    if url.startswith("postgres://"):
        return is_ready(int(url.rpartition(":")[2]))
    return responds(url)


def answers(url: str) -> bool:
    """Say whether a server is there. It says anything but that it is away, or speaks TLS in a way that is for its own clients to judge."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError) as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)


def wait_for_answer(url: str, seconds: float) -> bool:
    """Ask until a server answers there or the time is up; True when it did."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not answers(url):
        if time.monotonic() > deadline:
            return False
        pause.wait(BETWEEN_SECONDS)
    return True


def is_port_free(host: str, port: int) -> bool:
    """Say whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def listener(port: int) -> str:
    """Return who listens on a port, as far as the system tells this user."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:  # type: ignore[union-attr]
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "another process"
