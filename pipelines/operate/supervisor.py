"""Keep the services of one machine alive. Start in order, ask for their health, restart with backoff, stop every process they left.

python -m attar.pipelines.operate.supervisor SITE_AS_JSON
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from attar.pipelines.operate.health import is_healthy
from attar.pipelines.operate.service_state import ServiceState, SiteState, mark_of
from attar.pipelines.operate.site import Service, Site, services
from attar.registry.artifacts.environment import configure_process
from attar.stages.runtime.orphans import claim_children, end_tree, owned_by, tree_of

logger = logging.getLogger("attar.services")
LOOP_SECONDS = 0.5
HEALTH_SECONDS = 5.0
# A fresh database needs its migrations, and a loaded machine its time.
STARTUP_SECONDS = 240.0
# SQLite gives a writer a minute to get its turn: what is silent for longer is hung.
NUM_MISSED = 12
# What a process takes to write the stacks of its threads to its log.
DUMP_SECONDS = 5.0
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
# After this long in health a service has earned a quick restart again.
FORGIVEN_SECONDS = 120.0
MAX_LOG_BYTES = 20_000_000


class Keeper:
    """One service: its process, its health and when it may start again."""

    def __init__(self, service: Service, state: ServiceState, log_folder: Path) -> None:
        self.service, self.state = service, state
        self.child: subprocess.Popen[bytes] | None = None
        self._log_path = log_folder / f"{service.name}.log"
        self._num_failures = self._num_missed = 0
        self._started = self._asked_at = self._healthy_since = 0.0
        self._start_at = 0.0

    def check(self, is_ready: bool) -> bool:
        """Do what is due now; True when the state has changed. `is_ready`: what it waits for is healthy."""
        before = (self.state.state, self.state.process)
        now = time.monotonic()
        if self.child is None:
            if is_ready and now >= self._start_at:
                self._start(now)
        elif self.child.poll() is not None:
            self._fall(f"ended with exit code {self.child.returncode}", now)
        elif now - self._asked_at >= (2 * LOOP_SECONDS if self.state.state == "starting" else HEALTH_SECONDS):
            self._ask(now)
        return before != (self.state.state, self.state.process)

    def _start(self, now: float) -> None:
        _rotate(self._log_path)
        with self._log_path.open("ab") as log:
            self.child = subprocess.Popen(
                self.service.command,
                env=self.service.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log_path.parent,
                start_new_session=True,  # Ctrl-C in the terminal of `attar up` is not meant for it
            )
        self._started, self._asked_at, self._num_missed = now, now, 0
        self.state.process, self.state.state, self.state.reason = mark_of(self.child.pid), "starting", ""
        logger.info("%s started as process %d", self.service.name, self.child.pid)

    def _ask(self, now: float) -> None:
        self._asked_at = now
        if is_healthy(self.service.health_url):
            if self.state.state != "healthy":
                self.state.state, self._healthy_since = "healthy", now
                logger.info("%s is healthy after %.1f s", self.service.name, now - self._started)
            self._num_missed = 0
            if now - self._healthy_since > FORGIVEN_SECONDS:
                self._num_failures = 0
        elif self.state.state == "starting":
            if now - self._started > STARTUP_SECONDS:
                self._fall(f"did not answer within {STARTUP_SECONDS:.0f} s", now)
        else:
            self._num_missed += 1
            self.state.state = "failing"
            if self._num_missed >= NUM_MISSED:
                self._fall(f"did not answer {NUM_MISSED} times", now, is_hung=True)

    def _fall(self, reason: str, now: float, *, is_hung: bool = False) -> None:
        assert self.child is not None
        tree = tree_of(self.child.pid)
        if is_hung and self.service.is_python:
            # nobody can ask it afterwards where it hung
            dump_stacks(tree[:1] if self.service.leaves_work else tree, grace_seconds=DUMP_SECONDS)
        if self.service.leaves_work:
            self.child.kill()
        else:
            end_tree(tree, grace_seconds=5.0)
        self.child.wait()
        backoff = BACKOFF_SECONDS[min(self._num_failures, len(BACKOFF_SECONDS) - 1)]
        self._num_failures += 1
        self.child, self._start_at = None, now + backoff
        self.state.num_restarts += 1
        self.state.state, self.state.process, self.state.reason = "restarting", None, reason
        logger.warning("%s %s: starting it again in %.0f s", self.service.name, reason, backoff)


def supervise(site: Site) -> None:
    """Run the services until SIGTERM or SIGINT, then stop them and all that they started."""
    claim_children()  # before the services' environments are made: it marks what they start as ours
    state = SiteState(site, mark_of(os.getpid()))
    keepers = {}
    for service in services(site):
        state.services[service.name] = ServiceState()
        keepers[service.name] = Keeper(service, state.services[service.name], site.log_folder)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    state.save()
    while not stopping.wait(LOOP_SECONDS):
        changed = [
            keeper.check(not keeper.service.after or state.services[keeper.service.after].state == "healthy")
            for keeper in keepers.values()
        ]
        if any(changed):
            state.save()
    _stop(state, keepers)


def _stop(state: SiteState, keepers: dict[str, Keeper]) -> None:
    """Stop the worker while its server still listens, then the servers, then whatever a service has left behind."""
    for keeper in reversed(keepers.values()):
        if keeper.child is not None:
            end_tree(tree_of(keeper.child.pid), grace_seconds=10.0)
            keeper.child.wait()
        keeper.state.state, keeper.state.process = "stopped", None
        logger.info("%s stopped", keeper.service.name)
        state.save()
    end_tree([process for left in owned_by(os.getpid()) for process in tree_of(left)], grace_seconds=5.0)


def dump_stacks(processes: Sequence[psutil.Process], *, grace_seconds: float) -> None:
    """Abort Python processes that run with PYTHONFAULTHANDLER: each writes the stacks of its threads to its standard error and ends."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)
    psutil.wait_procs(processes, timeout=grace_seconds)


def _rotate(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))


if __name__ == "__main__":
    configure_process()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    supervise(Site.from_dict(json.loads(sys.argv[1])))
