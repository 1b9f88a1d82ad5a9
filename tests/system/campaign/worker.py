"""One worker: reads seeds, tries the input that each stands for under limits, writes a verdict a line."""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import psutil

from tests.system.campaign.crew import MAX_CPU_SECONDS, READY

MAX_GROWTH_BYTES = 1_000_000_000
MAX_LINES, MAX_LINE_LENGTH = 25, 2000


def verdict_on(kind: Any, prepared: Any, seed: int, folder: Path) -> dict[str, Any]:
    """Try one input: accepted, refused in lines, or a fault with its reason."""
    started, before = time.process_time(), _resident()
    verdict: dict[str, Any] = {"seed": seed, "end": "accepted"}
    try:
        kind.attempt(prepared, seed, folder)
    except kind.CLEAN as error:
        lines = getattr(error, "lines", None) or [str(error)]
        verdict |= {"end": "refused", "line_length": max(map(len, lines)), "said": lines[0][:200]}
        if reason := _fault_of(lines):
            verdict |= {"end": "fault", "reason": reason}
    except BaseException as error:  # noqa: BLE001 - whatever else it is, it is what is looked for
        where = "".join(traceback.format_exception(error)[-3:])[-1500:].replace(os.getcwd(), ".")
        verdict |= {"end": "fault", "reason": f"{type(error).__name__}: {str(error)[:200]}", "where": where}
    seconds = time.process_time() - started
    verdict |= {"cpu_seconds": round(seconds, 3), "growth_mb": round((_resident() - before) / 1e6, 1)}
    if seconds > MAX_CPU_SECONDS and verdict["end"] != "fault":
        verdict |= {"end": "fault", "reason": f"took {seconds:.1f} s of processor time"}
    return verdict


def _fault_of(lines: list[str]) -> str:
    if len(lines) > MAX_LINES:
        return f"{len(lines)} lines"
    for line in lines:
        if not line.strip():
            return "an empty message"
        if len(line) > MAX_LINE_LENGTH or "\n" in line.strip():
            return f"a message of {len(line)} characters, {line.count(chr(10)) + 1} lines: {line[:100]}"
    return ""


def _resident() -> int:
    return psutil.Process().memory_info().rss


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    kind = importlib.import_module(f"tests.system.campaign.inputs.{sys.argv[1]}")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ATTAR_HOME"] = str(Path(scratch) / "home")
        prepared = kind.prepare(Path(scratch))
        data = psutil.Process().memory_info().data
        resource.setrlimit(resource.RLIMIT_DATA, (data + MAX_GROWTH_BYTES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answers.write(READY)
        answers.flush()
        for line in sys.stdin:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            answers.write(json.dumps(verdict_on(kind, prepared, int(line), folder)) + "\n")
            answers.flush()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
