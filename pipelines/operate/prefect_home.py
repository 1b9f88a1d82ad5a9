"""Prefect's settings for a run. PREFECT_API_URL's API, else the server of `attar up`, else a short-lived one under ATTAR_HOME.

Prefect reads its settings when it is imported, so this runs before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from attar.pipelines.operate.health import answers, wait_for_answer
from attar.pipelines.operate.host_check import VARIABLE as HOST_NAMES
from attar.pipelines.operate.service_state import adopt_servers, running_site
from attar.registry.artifacts.disk_space import DiskFullError
from attar.registry.artifacts.files import free_bytes
from attar.stages.runtime.orphans import claim_children, end_orphans

# Runs without it are not closed when they fall silent: see pipelines/operate/zombies.py.
RUN_TAG = "attar"
# The shortest that Prefect sends.
HEARTBEAT_SECONDS = "30"
# Prefect starts its short-lived server by uvicorn, which imports the place that its setting for the loop names.
MENDED_LOOP = "attar.pipelines.operate.prefect_server:new_event_loop"
# Before it a loop could only be one of uvicorn's own.
OLDEST_UVICORN = Version("0.36")
# A supervised server comes back by itself, after an upgrade too; a wrong address should be told soon.
SUPERVISED_SECONDS, NAMED_SECONDS = 900.0, 60.0
# Of the short-lived server's SQLite file with its log: 1 to 3 MB after a run, and as much again while it is written.
DATABASE_BYTES = 6_000_000
DEFAULTS = {
    # a fresh database needs its migrations, and a loaded machine its time
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "DO_NOT_TRACK": "1",
    # the short-lived server has no interface: no page of a browser is to call it, by its own name or by another
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
    HOST_NAMES: "",
    # our console tells what happens; Prefect's own lines go to its UI
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # services that a run of a few minutes does not need keep the database busy
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


def configure_prefect(home: Path) -> None:
    """Set Prefect's environment where the user has not; with an API of their own, only logging is touched."""
    end_orphans()  # the server of a run that was killed would keep the database busy
    claim_children()
    adopt_servers(home)
    # by its silence a server knows a run whose process is gone: who beats as seldom as Prefect does by default, every three minutes,
    # would be taken for dead
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", HEARTBEAT_SECONDS)
    if os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        return
    prefect_home = home / "prefect"
    prefect_home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(prefect_home))
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if Version(metadata.version("uvicorn")) >= OLDEST_UVICORN:
        os.environ.setdefault("UVICORN_LOOP", MENDED_LOOP)


def await_prefect(home: Path, say: Callable[[str], None]) -> None:
    """Wait for the server that PREFECT_API_URL names, where it is away. Prefect's client gives up when its first request is refused.

    Raises ValueError, in one line, when it does not come back, and DiskFullError where a server of our own would have no space.
    """
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not api:
        refuse_full_disk(home)
        return
    if answers(f"{api}/health"):
        return
    site = running_site(home)
    seconds = SUPERVISED_SECONDS if site is not None and site.api_url == api else NAMED_SECONDS
    say(f"Prefect's server at {api} does not answer: waiting up to {seconds:.0f} s")
    if not wait_for_answer(f"{api}/health", seconds):
        raise ValueError(
            f"Prefect's server at {api} does not answer; `attar doctor` says more, PREFECT_API_URL names it"
        )


def refuse_full_disk(home: Path) -> None:
    """Raise DiskFullError where Prefect's database would not fit. Its server dies of that without a word, and is waited for in vain."""
    if free_bytes(home) < DATABASE_BYTES:
        free, needed = free_bytes(home) / 1e6, DATABASE_BYTES / 1e6
        message = f"no space for Prefect's database under {home / 'prefect'}: {free:,.1f} MB are free, {needed:,.0f} MB are needed"
        raise DiskFullError(errno.ENOSPC, message)
