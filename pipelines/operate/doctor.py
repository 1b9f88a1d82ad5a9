"""`attar doctor`: check everything a run stands on. Each thing that is wrong comes with how to mend it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from attar.pipelines.operate.health import is_healthy, is_port_free, listener
from attar.pipelines.operate.server_facts import server_findings
from attar.pipelines.operate.service_state import ProcessMark, read_state, running_site
from attar.pipelines.operate.site import Site
from attar.registry.artifacts.environment import available_memory_bytes, tracking_uri
from attar.registry.artifacts.files import existing, free_bytes
from attar.registry.tracking.run_record import open_runs
from attar.stages.runtime.code_guard import UNGUARDED, system_guard
from attar.stages.runtime.sandbox import VARIABLE as UNGUARDED_VARIABLE

Verdict = Literal["ok", "note", "bad"]
OLDEST_PYTHON = (3, 11)
# A 135M-parameter model's run leaves some GB, and one of 8B some hundred.
LITTLE_DISK_BYTES, NO_DISK_BYTES = 20e9, 2e9
LITTLE_MEMORY_BYTES = 4e9
# glibc's malloc searches longer and longer among the tensors of a long training: 1.5 s a step in place of 1.2 after 50 steps of 1,024 tokens.
FAST_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
LOADED_LIBRARIES = Path("/proc/self/maps")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` keeps something from working, `note` may surprise; `mend` says what to do."""

    check: str
    verdict: Verdict
    observed: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain JSON values."""
        return asdict(self)


def examine(home: Path) -> list[Finding]:
    """Return what every check found, in the order of `CHECKS`. Starts no service and changes nothing."""
    return [finding for check in CHECKS for finding in check(home)]


def _versions(home: Path) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Finding("python", "bad", python, f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    else:
        yield Finding("python", "ok", python)
    wrong = 0
    for text in metadata.requires("attar") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = installed_version(requirement.name)
        if not installed or not requirement.specifier.contains(installed, prereleases=True):
            wrong += 1
            fits = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(f"package {requirement.name}", "bad", installed or "not installed", fits)
    if not wrong:
        yield Finding("packages", "ok", "every version fits")


def installed_version(package: str) -> str:
    """Return the version that is installed, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _ports(home: Path) -> Iterator[Finding]:
    site = running_site(home)
    if site is not None:
        return  # the services check asks whoever listens there
    planned = Site(home=home, workspace=home)
    for name, port in planned.ports.items():
        if is_port_free(planned.host, port):
            yield Finding(f"port {port}", "ok", f"free for {name}")
        else:
            mend = f"attar up --{name}-port {port + 100}"
            yield Finding(f"port {port}", "note", f"{listener(port)} listens where {name} would", mend)


def _disk(home: Path) -> Iterator[Finding]:
    free = free_bytes(home)
    verdict: Verdict = "bad" if free < NO_DISK_BYTES else "note" if free < LITTLE_DISK_BYTES else "ok"
    mend = "attar gc, or ATTAR_HOME on a larger disk" if verdict != "ok" else ""
    yield Finding("disk", verdict, f"{free / 1e9:,.1f} GB free under {home}", mend)


def _memory(home: Path) -> Iterator[Finding]:
    free = available_memory_bytes()
    is_little = 0 < free < LITTLE_MEMORY_BYTES
    mend = "smaller tokens_per_micro_batch and batch_size, or end what else runs" if is_little else ""
    yield Finding("memory", "note" if is_little else "ok", f"{free / 1e9:,.1f} GB available", mend)


def _gpu(home: Path) -> Iterator[Finding]:
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        mend = "pip uninstall both, then install one of the extras cpu and gpu: they own the same files"
        yield Finding("onnxruntime", "bad", "onnxruntime and onnxruntime-gpu are both installed", mend)
    gpus = _gpu_names()
    torch = installed_version("torch")
    if not gpus:
        yield Finding("gpu", "ok", "none; everything runs on the processor")
        yield from _allocator()
    elif "+cpu" in torch:
        yield Finding("gpu", "bad", f"{', '.join(gpus)}, but torch {torch} cannot use it", "pip install '.[gpu]' anew")
    elif not installed_version("onnxruntime-gpu"):
        mend = "pip install '.[gpu]': ONNX graphs would be measured on the processor"
        yield Finding("gpu", "note", f"{', '.join(gpus)}, but no onnxruntime-gpu", mend)
    else:
        yield Finding("gpu", "ok", ", ".join(gpus))


def _allocator() -> Iterator[Finding]:
    if not LOADED_LIBRARIES.exists():
        return
    loaded = LOADED_LIBRARIES.read_text()
    loaded_allocator = next((name for name in FAST_ALLOCATORS if name in loaded), "")
    mend = "apt-get install libtcmalloc-minimal4, and LD_PRELOAD=libtcmalloc_minimal.so.4 before the command"
    if loaded_allocator:
        yield Finding("allocator", "ok", loaded_allocator)
    else:
        yield Finding(
            "allocator", "note", "the system's own: long trainings on the processor take a quarter longer", mend
        )


def _sandbox(home: Path) -> Iterator[Finding]:
    guard = system_guard()
    if guard is not None:
        yield Finding("code sandbox", "ok", guard.words)
        return
    is_allowed = os.environ.get(UNGUARDED_VARIABLE) == "yes"
    effect = f"runs unguarded: {UNGUARDED_VARIABLE} is yes" if is_allowed else "is refused"
    mend = "Linux with Landlock (5.13 or newer) or user namespaces; in a container, allow its system calls"
    yield Finding("code sandbox", "note", f"{UNGUARDED.words}; such code {effect}", mend)


def _permissions(home: Path) -> Iterator[Finding]:
    existing_folder = existing(home)
    if not os.access(existing_folder, os.W_OK | os.X_OK):
        yield Finding(
            "permissions",
            "bad",
            f"{existing_folder} is not writable",
            f"chown it to you, or set ATTAR_HOME: {existing_folder}",
        )
    elif home.exists() and stat.S_IMODE(home.stat().st_mode) & stat.S_IWOTH:
        yield Finding("permissions", "bad", f"anyone may write into {home}", f"chmod o-w {home}")
    else:
        yield Finding("permissions", "ok", f"{existing_folder} is yours to write")
    devices = {folder.stat().st_dev for folder in (home / "store", home / "work") if folder.exists()}
    if len(devices) > 1:
        mend = "put both on one file system: an artifact appears by a rename"
        yield Finding("file system", "bad", "store and work lie on different ones", mend)


def _services(home: Path) -> Iterator[Finding]:
    state = read_state(home)
    if state is None:
        yield Finding("services", "ok", "not started; `attar up` would")
        return
    if not state.is_running:
        yield Finding("services", "bad", "their supervisor was killed", "attar down, then attar up")
        return
    for name, service in state.services.items():
        restarts = f", started again {service.num_restarts} times" if service.num_restarts else ""
        log = state.site.log_folder / f"{name}.log"
        if service.state == "healthy":
            yield Finding(
                f"service {name}", "note" if restarts else "ok", f"healthy{restarts}", f"read {log}" if restarts else ""
            )
        else:
            yield Finding(
                f"service {name}", "bad", f"{service.state} {service.reason}{restarts}".strip(), f"read {log}"
            )


def _registry(home: Path) -> Iterator[Finding]:
    site = running_site(home)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (site.mlflow_url if site else tracking_uri(home))
    if uri.startswith("http"):
        if is_healthy(f"{uri.rstrip('/')}/health"):
            yield Finding("registry", "ok", f"MLflow answers at {uri}")
        else:
            yield Finding("registry", "bad", f"no MLflow at {uri}", "attar up, or correct MLFLOW_TRACKING_URI")
        return
    database = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:") or not database.exists():
        yield Finding("registry", "ok", f"{uri}, made on first use")
        return
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            [(answer,)] = connection.execute("pragma quick_check(1)").fetchall()
    except sqlite3.Error as error:
        answer = str(error)
    if answer == "ok":
        yield Finding("registry", "ok", f"{database} is whole")
    else:
        mend = f"move {database} away, or restore a copy: artifacts are safe, versions and metrics are in it"
        yield Finding("registry", "bad", f"{database}: {answer}", mend)


def _runs(home: Path) -> Iterator[Finding]:
    dead = [record.id for record in open_runs(home) if ProcessMark(record.pid, record.pid_created).process is None]
    if dead:
        yield Finding("runs", "note", f"{len(dead)} died without a word: {dead[-1]}", "the next run closes them")


def _servers(home: Path) -> Iterator[Finding]:
    site = running_site(home)
    api_url = os.environ.get("PREFECT_API_URL") or (site.api_url if site else "")
    for check, verdict, finding, mend in server_findings(api_url):
        yield Finding(check, verdict, finding, mend)  # type: ignore[arg-type]


CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _versions,
    _permissions,
    _sandbox,
    _disk,
    _memory,
    _gpu,
    _ports,
    _services,
    _servers,
    _registry,
    _runs,
)


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done: Any = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
