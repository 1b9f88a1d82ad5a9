"""SIGKILL inside every stage of a real run; the next run goes on, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import open_runs
from attar.stages.catalogue import STAGES
from tests.databases import copy_database
from tests.system.forked import attar_forked
from tests.system.kill_recipes import everyday_nodes, planned_nodes, rare_nodes, subject_nodes
from tests.system.operated import BETWEEN_POLLS

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
    ("healed", "merge"),
    ("retention", "compare"),
    ("onnx", "export"),
    ("small", "quantize"),
    ("few_bits", "quantize_torch"),
    ("healed_scores", "evaluate"),
    ("release", "register"),
)
# What every run of the tests tries, on a recipe of eight small nodes; `make test-slow` tries every stage, on the shipped one.
EVERYDAY_KILLS = (("smaller", "prune"), ("student", "finetune"), ("release", "register"))
# The same for stages that only methods of the literature use, in one recipe of the test's.
RARE_KILLS = (
    ("attempts", "answer"),
    ("revisions", "revise"),
    ("skills", "learn_skills"),
    ("chosen", "choose_answers"),
    ("grades", "grade"),
    ("judged", "judge"),
    ("chunks", "align"),
    ("best", "choose_teacher"),
    ("share", "fit_share"),
    ("condensed", "condense"),
    ("tasks", "compose_tasks"),
    ("trimmed", "trim_vocabulary"),
    ("fewer_experts", "prune_experts"),
    ("behaviour", "check_behaviour"),
    ("rejoined", "rejoin"),
)
# And for those that take images, denoisers, pairs of sentences or spans.
SUBJECT_KILLS = (
    ("digits", "ingest_images"),
    ("selected", "select_images"),
    ("searched", "search_blocks"),
    ("drawn", "sample"),
    ("labelled", "label_pairs"),
    ("spanned", "label_spans"),
)
# A plan over every axis: its measurement, and the solve with its cuts and repairs.
PLAN_KILLS = (("candidates", "scan"), ("planned", "prune"))
NUM_MISSES = 5


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: dict[str, str],
    serve_prefect: Callable[[Path], dict[str, str]],
    mlflow_database: Path,
) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    copy_database(mlflow_database, home / "mlflow.db")
    return clean_environment | serve_prefect(home) | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()}


def test_every_stage_is_killed_somewhere() -> None:
    assert sorted(stage for _, stage in KILLS + RARE_KILLS + SUBJECT_KILLS) == sorted(STAGES)


@pytest.mark.timeout(900)  # four runs in a row
def test_a_run_killed_inside_a_stage_is_continued(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "everyday.yaml").write_text(yaml.safe_dump({"name": "everyday", "nodes": everyday_nodes(tmp_path)}))
    kill_and_finish("everyday.yaml", EVERYDAY_KILLS, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_is_one_killed_inside_a_plan(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"name": "plan", "nodes": planned_nodes(tmp_path)}))
    kill_and_finish("plan.yaml", PLAN_KILLS, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_so_is_one_killed_inside_any_stage_of_the_whole_dag(environment: dict[str, str], tmp_path: Path) -> None:
    kill_and_finish("tiny", KILLS, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_is_one_killed_inside_a_stage_of_the_methods(
    tiny: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rare.yaml").write_text(yaml.safe_dump({"name": "rare", "nodes": rare_nodes(tiny)}))
    kill_and_finish("rare.yaml", RARE_KILLS, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_so_is_one_killed_inside_a_stage_of_other_subjects(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "subjects.yaml").write_text(yaml.safe_dump({"name": "subjects", "nodes": subject_nodes()}))
    kill_and_finish("subjects.yaml", SUBJECT_KILLS, environment, tmp_path)


def kill_and_finish(
    recipe: str, kills: tuple[tuple[str, str], ...], environment: dict[str, str], tmp_path: Path
) -> None:
    """Kill one run inside each stage, then run to the end: the work goes on from what is whole, and no state is left open."""
    home = Path(environment["ATTAR_HOME"])
    earlier = flow_states(home)
    killed: dict[str, str] = {}
    num_missed = 0
    for until, stage in kills:
        before = stored(home)
        while stage not in killed:  # some are over within milliseconds: what was made is taken away, and made again
            with (tmp_path / f"{stage}.log").open("wb") as log:
                process = subprocess.Popen(
                    command(recipe, until),
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=tmp_path,
                )
                if key := kill_inside(process, home, stage, tmp_path / f"{stage}.log"):
                    killed[stage] = key
                    continue
            num_missed += 1
            assert num_missed <= NUM_MISSES, f"{stage} is over before it is seen"
            for key in stored(home) - before:
                shutil.rmtree(home / "store" / stage / key, ignore_errors=True)
        assert killed[stage] not in stored(home), f"{stage} was killed before its artifact was there"
        assert before <= stored(home), "what was finished stays"
        for artifact in Store(home).artifacts():
            Store(home).verify(artifact)
    done = attar_forked(environment, "run", recipe, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["nodes"].values()
    assert {node["state"] for node in nodes} == {"Completed", "Cached"}
    assert set(killed.values()) <= {node["key"] for node in nodes}, "the interrupted work is the work that was finished"
    assert not list((home / "work").iterdir())
    ended = flow_states(home) - earlier
    assert ended == {"Completed": 1 + num_missed, "Crashed": len(kills)}, (
        f"no run stays Running for ever: {flow_names(home)}"
    )
    assert not open_runs(home)


def flow_states(home: Path) -> Counter[str]:
    """How many flow runs of this home are in which state."""
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        return Counter(state for (state,) in database.execute("select state_name from flow_run"))


def flow_names(home: Path) -> list[tuple[str, str]]:
    """The flow runs of this home with their states."""
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        return database.execute("select name, state_name from flow_run").fetchall()


# SIGTERM stops a run on pools in every run of the tests
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_signal_stops_a_run_at_once_and_says_how_to_go_on(
    number: signal.Signals, environment: dict[str, str], mlflow_database: Path, tmp_path: Path
) -> None:
    own = environment | {"ATTAR_HOME": str(tmp_path / "home")}
    copy_database(mlflow_database, tmp_path / "home" / "mlflow.db")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command("tiny", "pruned"), env=own, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
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
        BETWEEN_POLLS.wait(0.01)
    pytest.fail(f"no stage was seen at work before the run ended ({process.poll()})")


def command(recipe: str, until: str = "") -> list[str]:
    return [sys.executable, "-m", "attar.pipelines", "run", recipe, "--json", *(["--until", until] if until else [])]


def kill_inside(process: subprocess.Popen[bytes], home: Path, stage: str, log: Path) -> str:
    """SIGKILL a run and all its processes once the stage is at work; return the key it was building, or nothing if it ended unseen."""
    deadline = time.monotonic() + 120
    done = stored(home)
    while process.poll() is None and time.monotonic() < deadline:
        for work in home.glob("work/*/work.json"):
            if work.parent.name not in done and is_at_work(work, stage, process):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return work.parent.name
        BETWEEN_POLLS.wait(0.001)  # what looks without a pause takes a core from the run
    assert process.poll() == 0, f"{stage} was not seen at work before the run failed: {log.read_text()[-2000:]}"
    return ""


def is_at_work(work: Path, stage: str, process: subprocess.Popen[bytes]) -> bool:
    """True when this run, not one that was killed before, is inside the stage."""
    try:
        is_fresh = work.stat().st_mtime > psutil.Process(process.pid).create_time()
        return is_fresh and json.loads(work.read_text())["stage"] == stage
    except FileNotFoundError:  # that stage has just ended
        return False


def stored(home: Path) -> set[str]:
    return {path.parent.name for path in home.glob("store/*/*/manifest.json")}
