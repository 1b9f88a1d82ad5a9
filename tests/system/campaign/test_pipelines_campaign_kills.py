"""`tiny` ended at many random moments, in five ways: what it makes in the end is what an undisturbed run makes, once, and nothing stays.

ATTAR_CAMPAIGN_KILLS says how many (200), ATTAR_CAMPAIGN_SEED which moments, ATTAR_CAMPAIGN_MINUTES when it is enough whatever the
number, ATTAR_CAMPAIGN_RESULTS a folder that gets `kills.json`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.environment import describe_environment
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import open_runs
from tests.system.campaign.lives import TIMED_STAGES, Life, fingerprints, prefect_server, rows_of, write_tiny

pytestmark = pytest.mark.slow
NUM_KILLS = int(os.environ.get("ATTAR_CAMPAIGN_KILLS", "200"))
SEED = int(os.environ.get("ATTAR_CAMPAIGN_SEED", "0"))
MINUTES = float(os.environ.get("ATTAR_CAMPAIGN_MINUTES", "inf"))
WAYS = ("group", "parent", "stage", "SIGTERM", "SIGINT")
# A run that is asked to go may take a moment to close its records; one that lost a stage finishes what is beside it.
END_SECONDS = 900.0
# How far beyond its first stage a run may come before it is ended: longer, and each kill would test the same late stages.
WORK_SECONDS = 12.0


@pytest.mark.timeout(60 * NUM_KILLS + 600)
def test_tiny_survives_kills_at_random_moments(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    base = clean_environment | {"PYTHONPATH": os.getcwd()}
    write_tiny(tmp_path)
    with prefect_server(tmp_path / "server") as served:
        wanted, startup_seconds = undisturbed(base | served, tmp_path)
        counts = kill_often(base | served, tmp_path, wanted, startup_seconds + WORK_SECONDS)
    assert counts["num_kills"] == NUM_KILLS or counts["minutes"] >= MINUTES
    assert counts["num_finished"] >= 1, "no run came to its end: nothing was compared"
    faults = ("orphans", "different", "doubled", "left_open", "damaged", "tracebacks")
    assert {fault: counts[fault] for fault in faults} == {fault: [] for fault in faults}


def undisturbed(environment: dict[str, str], folder: Path) -> tuple[dict[str, str], float]:
    """Run to the end in a home of its own; return the fingerprints and how long it takes until the first stage is at work."""
    home, started = folder / "undisturbed", time.monotonic()
    life = Life(environment | {"ATTAR_HOME": str(home)}, folder)
    while not list(home.glob("work/*/work.json")) and not life.ends_within(0.1):
        pass
    startup_seconds = time.monotonic() - started
    assert life.ends_within(END_SECONDS) and life.process.returncode == 0, life.printed()
    shutil.rmtree(home)
    return fingerprints(life.result()), startup_seconds


def kill_often(environment: dict[str, str], folder: Path, wanted: dict[str, str], max_seconds: float) -> dict[str, Any]:
    """Start, end and start again in one home until the kills are done and the last run came to its end."""
    generator, home, started = random.Random(SEED), folder / "home", datetime.now(UTC)
    own = environment | {"ATTAR_HOME": str(home)}
    kills: Counter[str] = Counter()
    faults: dict[str, list[Any]] = {
        "orphans": [], "different": [], "doubled": [], "left_open": [], "damaged": [], "tracebacks": []
    }  # fmt: skip
    num_finished = num_versions = 0
    while True:
        seconds = (datetime.now(UTC) - started).total_seconds()
        is_last = kills.total() >= NUM_KILLS or seconds >= 60 * MINUTES
        way, moment = generator.choice(WAYS), generator.uniform(0.0, max_seconds)
        life = Life(own, folder)
        if not life.ends_within(END_SECONDS if is_last else moment):
            assert not is_last, f"the run after all kills hangs: {life.printed()[-3000:]}"
            kills[life.end(way, generator)] += 1
            assert life.ends_within(END_SECONDS), f"{way} at {moment:.1f} s: it does not end\n{life.printed()[-3000:]}"
        faults["orphans"] += [[way, round(moment, 1), left] for left in life.orphans()]
        if "Traceback" in life.printed():
            faults["tracebacks"].append([way, round(moment, 1), life.printed()[-3000:]])
        faults["damaged"] += damaged(home)
        if life.process.returncode == 0:
            num_finished += 1
            num_versions = check_the_finished(life, home, wanted, num_finished, faults)
            shutil.rmtree(home / "store")
        counts = {"num_kills": kills.total(), "kills_by_way": dict(sorted(kills.items())), "num_finished": num_finished}
        counts |= {"num_versions": num_versions, **faults, "moments_seconds": [0.0, round(max_seconds, 1)]}
        report = write_counts(counts, wanted, started)  # after each: what is counted stays counted
        if is_last:
            assert life.process.returncode == 0, life.printed()[-3000:]
            return report
        life.log.unlink()


def write_counts(counts: dict[str, Any], wanted: dict[str, str], started: datetime) -> dict[str, Any]:
    """Write what was counted so far, and on what; return it."""
    report = {
        "what": "attar run tiny, ended at random moments and started again; faults are listed, empty lists are none",
        **counts, "nodes_compared": sorted(wanted), "stages_left_out": sorted(TIMED_STAGES), "seed": SEED,
        "minutes": round((datetime.now(UTC) - started).total_seconds() / 60, 1), "date": started.date().isoformat(),
        "commit": commit(),
        "command": f"ATTAR_CAMPAIGN_KILLS={NUM_KILLS} python -m pytest -m slow tests/system/campaign/test_pipelines_campaign_kills.py",
        "machine": {name: describe_environment()[name] for name in ("processor", "num_cores", "python", "packages")},
    }  # fmt: skip
    folder = Path(os.environ.get("ATTAR_CAMPAIGN_RESULTS", "build"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kills.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def check_the_finished(
    life: Life, home: Path, wanted: dict[str, str], num_finished: int, faults: dict[str, list[Any]]
) -> int:
    """Compare a run that came to its end with the undisturbed one, and count what the registry holds; return that."""
    result = life.result()
    made = fingerprints(result)
    faults["different"] += [[name, wanted[name], made.get(name)] for name in wanted if made.get(name) != wanted[name]]
    keys = {(node["stage"], node["key"]) for node in result["nodes"].values()}
    stored = [(path.parent.parent.name, path.parent.name) for path in home.glob("store/*/*/manifest.json")]
    faults["doubled"] += [list(extra) for extra in sorted(set(stored) - keys)]
    [[num_versions]] = rows_of(home / "mlflow.db", "select count(*) from model_versions where name = 'tiny'")
    if num_versions != num_finished:
        faults["doubled"].append(["versions", num_versions, num_finished])
    aliases = dict(rows_of(home / "mlflow.db", "select alias, version from registered_model_aliases"))
    if str(aliases.get("candidate")) != str(num_versions):
        faults["doubled"].append(["candidate", aliases, num_versions])
    faults["left_open"] += [record.id for record in open_runs(home)]
    faults["left_open"] += [path.name for path in (home / "work").iterdir()]
    return num_versions


def damaged(home: Path) -> list[list[str]]:
    """Return the artifacts that are not whole."""
    store, bad = Store(home), []
    for artifact in store.artifacts():
        try:
            store.verify(artifact)
        except ValueError as error:
            bad.append([artifact.key, str(error)])
    return bad


def commit() -> str:
    """Return the commit that is measured."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
