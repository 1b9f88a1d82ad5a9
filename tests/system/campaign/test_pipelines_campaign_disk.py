"""`tiny` on a disk that is full at six sizes, and on one that is read-only: each run ends in lines, and what is made in the end is the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.campaign.ledger import note_scenario
from tests.system.campaign.lives import Life, fingerprints, prefect_server, write_tiny

pytestmark = pytest.mark.slow
# Of what an undisturbed run leaves in its home.
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.timeout(3600)
def test_a_full_disk_costs_no_more_than_going_on(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("no mount namespace without root here")
    write_tiny(tmp_path)
    with prefect_server(tmp_path / "server") as served:
        own = clean_environment | served | {"PYTHONPATH": os.getcwd()}
        wanted, num_bytes = undisturbed(own, tmp_path)
        sizes = [str(int(share * num_bytes)) for share in SHARES]
        command = [*NAMESPACE, sys.executable, "-m", "tests.system.campaign.full_disk", str(tmp_path), *sizes]
        done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert not [faults for faults in map(faults_of, every_end(report)) if faults]
    full = [end for end in report["full"] if end["code"]]
    assert len(full) >= len(SHARES) - 1, "the sizes are too large: hardly any was full"
    full.append(report["alone"])
    assert all("no space" in end["printed"].lower() for end in full), json.dumps(
        [end["printed"][-600:] for end in full], indent=1
    )
    assert report["enough"]["fingerprints"] == report["alone_again"]["fingerprints"] == wanted
    assert report["read_only"]["code"] == 2 and report["read_only"]["printed"].count("\n") == 1
    assert report["read_only_list"]["code"] == 0 and report["read_only_list"]["num_lines"] > len(wanted)
    assert report["again"]["fingerprints"] == wanted and report["again"]["states"] == ["Cached"]
    assert report["left"] == []
    note_scenario("full and read-only disk", home_bytes=num_bytes, sizes_bytes=[int(size) for size in sizes])


def undisturbed(environment: dict[str, str], folder: Path) -> tuple[dict[str, str], int]:
    """Run to the end on a large disk; return what is made and how many bytes that takes."""
    home = folder / "large"
    life = Life(environment | {"ATTAR_HOME": str(home)}, folder)
    assert life.ends_within(900) and life.process.returncode == 0, life.printed()[-3000:]
    num_bytes = sum(path.lstat().st_blocks * 512 for path in home.rglob("*"))
    shutil.rmtree(home)
    return fingerprints(life.result()), num_bytes


def every_end(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [*report["full"], *(report[name] for name in ("alone", "enough", "alone_again", "read_only", "again"))]


def faults_of(end: dict[str, Any]) -> list[str]:
    """What no end may show, whatever the disk does."""
    faults = [] if end["has_ended"] else ["hangs"]
    faults += ["a traceback: " + end["printed"][-1500:]] if "Traceback" in end["printed"] else []
    return faults + [f"an orphan: {orphan}" for orphan in end["orphans"]]
