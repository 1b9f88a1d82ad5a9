"""Runs of `tiny` that are ended in the middle, and what is left of them: for the kill campaign and its neighbours."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import BaseModel

from attar.pipelines.recipe.file import shipped_recipes
from attar.stages.catalogue import STAGES
from attar.stages.runtime.older_fields import member_of

# Carried by every process of one run, whatever session it is in: who still has it afterwards is an orphan.
MARK = "ATTAR_CAMPAIGN_LIFE"
ORPHAN_SECONDS = 60.0
# Nothing sets it: looking again at once would take the processor from what is looked at.
BETWEEN_POLLS = threading.Event()
# Of `tiny`: what these make holds timings, or was made from such, and so differs from run to run.
TIMED_STAGES = frozenset({"evaluate", "quantize", "quantize_torch", "register"})


@contextmanager
def prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """Run a server whose database lies in a home, for as long as the block; gives what its clients need."""
    before = dict(os.environ)
    from attar.pipelines.operate.prefect_home import configure_prefect

    configure_prefect(home)
    from prefect.server.api.server import SubprocessASGIServer  # reads its settings when imported

    server = SubprocessASGIServer()
    server.start(timeout=180)
    try:
        yield {"PREFECT_API_URL": server.api_url, "PREFECT_HOME": str(home / "prefect")}
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


def write_tiny(folder: Path) -> None:
    """Write `tiny` with every precision said: `auto` is decided by a measurement, which another load of the machine can turn."""
    document = yaml.safe_load(shipped_recipes()["tiny"].read_text())
    for node in document["nodes"].values():
        node["config"] = with_precision(STAGES[node["stage"]].config_type, node.get("config", {}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def with_precision(model: type[BaseModel], config: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which every precision is float32, in the configs within it too."""
    config = dict(config)
    for name, field in model.model_fields.items():
        given = config.get(name, {})
        inner = member_of(model, name, given) if isinstance(given, dict) else None
        if name == "precision":
            config[name] = "float32"
        elif inner is not None and (given or field.get_default(call_default_factory=True) is not None):
            config |= {name: nested} if (nested := with_precision(inner, given)) else {}
    return config


class Life:
    """One `attar run tiny.yaml` in a session of its own, from its start to its end or its kill."""

    def __init__(self, environment: dict[str, str], folder: Path, *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        self.log = folder / f"{self.mark}.log"
        self.output = folder / f"{self.mark}.json"
        with self.log.open("wb") as log, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "attar.pipelines", "run", "tiny.yaml", "--json", *arguments],
                env=environment | {MARK: self.mark},
                stdout=output,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    def ends_within(self, seconds: float) -> bool:
        """Wait so long; True when it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, how: str, generator: random.Random) -> str:
        """Kill it as `how` says; return what was killed in truth: without a stage at work, the parent is."""
        if how == "stage":
            stages = self.stages_at_work()
            if stages:
                generator.choice(stages).kill()
                return how
            how = "parent"
        if how == "parent":
            self.process.kill()
        elif how == "SIGTERM":
            self.process.terminate()
        else:  # the whole group, as Ctrl-C in a terminal or a scheduler's last word
            os.killpg(self.process.pid, signal.SIGINT if how == "SIGINT" else signal.SIGKILL)
        return how

    def stages_at_work(self) -> list[psutil.Process]:
        """The processes that a fork server has made: a stage each."""
        try:
            servers = psutil.Process(self.process.pid).children()
            return [stage for server in servers for stage in server.children()]
        except psutil.NoSuchProcess:
            return []

    def orphans(self, seconds: float = ORPHAN_SECONDS) -> list[str]:
        """Wait until every process of this run is gone; return the command lines of those that stay."""
        deadline = time.monotonic() + seconds
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            BETWEEN_POLLS.wait(0.2)
        return left

    def printed(self) -> str:
        """What it wrote for a person."""
        return self.log.read_text(errors="replace")

    def result(self) -> dict[str, Any]:
        """What it wrote for a script."""
        return json.loads(self.output.read_text())


def marked(mark: str) -> list[str]:
    """Return the command lines of the processes that carry a mark."""
    shown = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                shown.append(" ".join(process.cmdline()) or process.name())
        except psutil.Error:  # gone already, or not ours to look at
            continue
    return shown


def fingerprints(result: dict[str, Any]) -> dict[str, str]:
    """Return what each node made that holds no timing, by node."""
    nodes = result["nodes"]
    return {name: node["fingerprint"] for name, node in nodes.items() if node["stage"] not in TIMED_STAGES}


def rows_of(database: Path, query: str) -> Sequence[tuple[Any, ...]]:
    """Ask a server's SQLite file."""
    with sqlite3.connect(database, timeout=60) as connection:
        return connection.execute(query).fetchall()
