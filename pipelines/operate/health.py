"""Ask a server whether it is well, and a port whether it is free."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request

import psutil

from pipelines.operate.postgres import is_ready

TIMEOUT_SECONDS = 5.0
BETWEEN_SECONDS = 0.5


def is_healthy(url: str) -> bool:
    """True when the URL answers with a success; of postgres://HOST:PORT, when it takes connections."""
    if url.startswith("postgres://"):
        return is_ready(int(url.rpartition(":")[2]))
    try:
        # a proxy of the environment is for other machines
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            return 200 <= answer.status < 300
    except (OSError, urllib.error.URLError, ValueError):
        return False


def wait_until_healthy(url: str, seconds: float) -> bool:
    """Ask until the URL answers with a success or the time is up; True when it did."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not is_healthy(url):
        if time.monotonic() > deadline:
            return False
        pause.wait(BETWEEN_SECONDS)
    return True


def is_port_free(host: str, port: int) -> bool:
    """True when a server could listen there now."""
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
