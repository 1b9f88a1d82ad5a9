"""What a number was measured on: versions, processor, threads; and where Attar keeps its things."""

from __future__ import annotations

import errno
import logging
import os
import platform
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

# MLflow's SQLite file, and what stands beside it, with this behind its name, while it is made.
DATABASE, UNFINISHED = "mlflow.db", ".unfinished"
PACKAGES = (
    "attar",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "prefect",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "openvino-genai",
    "ctranslate2",
    "lm_eval",
    "diffusers",
    "safetensors",
    "bitsandbytes",
)
PROCESS_SETTINGS = {
    # How often a thread looks before it sleeps. Two processes on the same cores want 0 (a decoding step took 0.146 s in each; 0.195 with
    # 3000, 1.98 with 100000), one alone wants many (0.146, 0.097, 0.085 s): a sleeping thread of a virtual machine is slow to wake.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "3000",
    "TOKENIZERS_PARALLELISM": "false",
    # nothing of a user's model leaves the machine unasked
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    # our bars tell the progress; libraries' bars would only fill the logs
    "TQDM_DISABLE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # with a server it would print two lines a run to standard output, into the middle of --json
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# of its two faces MLflow's interface shows first the one for chats and traces, where neither runs nor registered models are found
MLFLOW_FACE = "workflowType=machine_learning"


def attar_home() -> Path:
    """Return the folder that holds everything a run leaves: `ATTAR_HOME`, else `.attar` in the working directory."""
    return Path(os.environ.get("ATTAR_HOME") or ".attar").expanduser().resolve()


def writable(home: Path) -> Path:
    """Return ATTAR_HOME, made if it was not there. Raises ValueError, in one line, when nothing can be written in it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return home  # what is needed is told where it is known
        raise ValueError(
            f"ATTAR_HOME {home}: {error.strerror}; set ATTAR_HOME to a folder that you may write in"
        ) from error
    return home


def tracking_uri(home: Path) -> str:
    """Return MLflow's tracking URI: the server that MLFLOW_TRACKING_URI names, else one SQLite file in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri(home)


def local_tracking_uri(home: Path) -> str:
    """Return the URI of MLflow's SQLite file in the home folder."""
    return f"sqlite:///{home / DATABASE}"


def is_database_whole(home: Path) -> bool:
    """Say whether MLflow's SQLite file is there and was made to its end."""
    return (home / DATABASE).exists() and not (home / f"{DATABASE}{UNFINISHED}").exists()


def num_cores() -> int:
    """Return how many cores this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Return the memory that a new process could take without swapping; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def configure_process() -> None:
    """Set the environment that stages and MLflow need, where the user has not; before the heavy libraries are imported."""
    for name, value in PROCESS_SETTINGS.items():
        os.environ.setdefault(name, value)
    # on every import it tells of an optional kernel that it does well without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@cache
def processor_flags() -> frozenset[str]:
    """Return the processor's instruction flags as Linux names them; empty elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def has_bf16_products() -> bool:
    """Say whether the processor multiplies bfloat16 by itself. AMX tiles, or AVX-512's dot product, which not every processor is fast at."""
    return not processor_flags().isdisjoint(("amx_bf16", "avx512_bf16"))


@cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each package that can change a result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_environment() -> dict[str, Any]:
    """Return versions, processor and memory as plain JSON values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "num_cores": num_cores(),
        "available_memory_bytes": available_memory_bytes(),
        "packages": package_versions(),
    }


@cache
def machine_name() -> str:
    """Return what a speed was measured on: the processor and how many of its cores this process may use."""
    return f"{_processor_name()}, {num_cores()} cores"


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
