"""`tiny` ended at many random moments, in five ways: what it makes in the end is what an undisturbed run makes, once, and nothing stays.

ATTAR_CAMPAIGN_KILLS says how many in all (200), ATTAR_CAMPAIGN_SEED which moments, ATTAR_CAMPAIGN_MINUTES when it is enough whatever the
number, ATTAR_CAMPAIGN_RESULTS a folder whose `kills.json` counts the kills of all sittings: each goes on from the last.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import open_runs
from tests.system.campaign.ledger import commit, machine
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
FAULTS = ("orphans", "different", "doubled", "left_open", "damaged", "tracebacks")
RESULTS = Path(os.environ.get("ATTAR_CAMPAIGN_RESULTS", "build")) / "kills.json"


@pytest.mark.timeout(60 * NUM_KILLS + 600)
def test_tiny_survives_kills_at_random_moments(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    base = clean_environment | {"PYTHONPATH": os.getcwd()}
    write_tiny(tmp_path)
    earlier = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with prefect_server(tmp_path / "server") as served:
        wanted, startup_seconds = undisturbed(base | served, tmp_path)
        counts = kill_often(base | served, tmp_path, wanted, startup_seconds + WORK_SECONDS, earlier)
    assert counts["num_finished"] >= 1, "no run came to its end: nothing was compared"
    assert {fault: counts[fault] for fault in FAULTS} == {fault: [] for fault in FAULTS}


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


def kill_often(
    environment: dict[str, str], folder: Path, wanted: dict[str, str], max_seconds: float, earlier: dict[str, Any]
) -> dict[str, Any]:
    """Start, end and start again in one home until the kills are done and the last run came to its end; return what this sitting saw."""
    num_before = earlier.get("num_kills", 0)
    generator, home, started = random.Random(f"{SEED} {num_before}"), folder / "home", datetime.now(UTC)
    own = environment | {"ATTAR_HOME": str(home)}
    kills: Counter[str] = Counter()
    faults: dict[str, list[Any]] = {fault: [] for fault in FAULTS}
    num_finished = 0
    while True:
        minutes = (datetime.now(UTC) - started).total_seconds() / 60
        is_last = num_before + kills.total() >= NUM_KILLS or minutes >= MINUTES
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
            check_the_finished(life, home, wanted, num_finished, faults)
            shutil.rmtree(home / "store")
        counts = {"kills_by_way": dict(sorted(kills.items())), "num_finished": num_finished, **faults}
        sitting = {
            "date": started.isoformat(timespec="seconds"), "commit": commit(), "seed": f"{SEED} {num_before}",
            "num_kills": kills.total(), "num_finished": num_finished, "moments_seconds": [0.0, round(max_seconds, 1)],
            "minutes": round((datetime.now(UTC) - started).total_seconds() / 60, 1),
        }  # fmt: skip
        write_counts(earlier, counts, sitting, sorted(wanted))  # after each: what is counted stays counted
        if is_last:
            assert life.process.returncode == 0, life.printed()[-3000:]
            return counts
        life.log.unlink()


def write_counts(
    earlier: dict[str, Any], counts: dict[str, Any], sitting: dict[str, Any], nodes_compared: list[str]
) -> None:
    """Write what all sittings counted, this one included, and on what."""
    by_way = Counter(earlier.get("kills_by_way", {})) + Counter(counts["kills_by_way"])
    report = {
        "what": "attar run tiny, ended at random moments and started again; faults are listed, empty lists are none",
        "num_kills": by_way.total(), "kills_by_way": dict(sorted(by_way.items())),
        "num_finished": earlier.get("num_finished", 0) + counts["num_finished"],
        **{fault: earlier.get(fault, []) + counts[fault] for fault in FAULTS},
        "mended": earlier.get("mended", []), "sittings": [*earlier.get("sittings", []), sitting],
        "date": sitting["date"], "commit": sitting["commit"],
        "nodes_compared": nodes_compared, "stages_left_out": sorted(TIMED_STAGES), "machine": machine(),
        "command": f"ATTAR_CAMPAIGN_KILLS={NUM_KILLS} python -m pytest -m slow tests/system/campaign/test_pipelines_campaign_kills.py",
    }  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


def check_the_finished(
    life: Life, home: Path, wanted: dict[str, str], num_finished: int, faults: dict[str, list[Any]]
) -> None:
    """Compare a run that came to its end with the undisturbed one, and what the registry and the homes hold with what they should."""
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


def damaged(home: Path) -> list[list[str]]:
    """Return the artifacts that are not whole."""
    store, bad = Store(home), []
    for artifact in store.artifacts():
        try:
            store.verify(artifact)
        except ValueError as error:
            bad.append([artifact.key, str(error)])
    return bad
