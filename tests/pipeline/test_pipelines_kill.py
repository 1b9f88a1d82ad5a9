"""SIGKILL inside every stage of a real run; the next run goes on, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from registry.run_record import open_runs
from registry.store import Store
from stages.catalogue import STAGES

# How far each run is asked to go, and the stage inside which it is killed. Each run also finishes what the one before left.
KILLS = (
    ("original", "ingest_model"),
    ("questions", "ingest_data"),
    ("block_scan", "scan"),
    ("pruned", "prune"),
    ("student_a", "self_data"),
    ("student_a", "curate"),
    ("recorded", "record"),
    ("thinner", "narrow"),
    ("student_a", "finetune"),
    ("joined", "merge_adapters"),
    ("guidance", "guide_data"),
    ("guidance", "guide"),
    ("denoiser", "denoise"),
    ("healed", "merge"),
    ("left", "compare"),
    ("onnx", "export"),
    ("small", "quantize"),
    ("few_bits", "quantize_torch"),
    ("healed_scores", "evaluate"),
    ("release", "register"),
)


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: dict[str, str],
    serve_prefect: Callable[[Path], dict[str, str]],
) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    return clean_environment | serve_prefect(home) | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()}


@pytest.mark.timeout(1500)  # twenty runs in a row, each 30 to 50 s on a busy machine
def test_a_run_killed_inside_any_stage_is_continued(environment: dict[str, str], tmp_path: Path) -> None:
    home = Path(environment["ATTAR_HOME"])
    assert sorted(stage for _, stage in KILLS) == sorted(STAGES)
    killed: dict[str, str] = {}
    for until, stage in KILLS:
        before = stored(home)
        with (tmp_path / f"{stage}.log").open("wb") as log:
            process = subprocess.Popen(
                command(until), env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
            )
            killed[stage] = kill_inside(process, home, stage)
        assert killed[stage] not in stored(home), f"{stage} was killed before its artifact was there"
        assert before <= stored(home), "what was finished stays"
        for artifact in Store(home).artifacts():
            Store(home).verify(artifact)
    done = subprocess.run(command(), capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["nodes"].values()
    assert {node["state"] for node in nodes} == {"Completed", "Cached"}
    assert set(killed.values()) <= {node["key"] for node in nodes}, "the interrupted work is the work that was finished"
    assert not list((home / "work").iterdir())
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("select state_name from flow_run")]
    assert sorted(states) == ["Completed"] + ["Crashed"] * len(KILLS), "no run stays Running for ever"
    assert not open_runs(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_stops_a_run_at_once_and_says_how_to_go_on(
    number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    own = environment | {"ATTAR_HOME": str(tmp_path / "home")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command("pruned"), env=own, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    wait_for_work(process, tmp_path / "home")
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)  # as Ctrl-C in a terminal does: the whole group
    assert process.wait(timeout=20) == 128 + number
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert gone
    assert not alive, "no process outlives the run"
    assert f"stopped by {number.name}; run the same command again" in (tmp_path / "log").read_text()
    [record] = open_runs(tmp_path / "home")
    assert "Stopped" in {node.state for node in record.nodes.values()}


def wait_for_work(process: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(home.glob("work/*/work.json")):
            return
    pytest.fail(f"no stage was seen at work before the run ended ({process.poll()})")


def command(until: str = "") -> list[str]:
    return [sys.executable, "-m", "pipelines", "run", "tiny", "--json", *(["--until", until] if until else [])]


def kill_inside(process: subprocess.Popen[bytes], home: Path, stage: str) -> str:
    """SIGKILL a run and all its processes once the stage is at work; return the key it was building."""
    deadline = time.monotonic() + 120
    done = stored(home)
    while process.poll() is None and time.monotonic() < deadline:
        for work in home.glob("work/*/work.json"):
            if work.parent.name not in done and is_at_work(work, stage, process):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return work.parent.name
    pytest.fail(f"the stage {stage} was not seen at work before the run ended ({process.poll()})")


def is_at_work(work: Path, stage: str, process: subprocess.Popen[bytes]) -> bool:
    """True when this run, not one that was killed before, is inside the stage."""
    try:
        is_fresh = work.stat().st_mtime > psutil.Process(process.pid).create_time()
        return is_fresh and json.loads(work.read_text())["stage"] == stage
    except FileNotFoundError:  # that stage has just ended
        return False


def stored(home: Path) -> set[str]:
    return {path.parent.name for path in home.glob("store/*/*/manifest.json")}
