"""A clock that is set forth and back by hours and days while `tiny` runs, is killed and goes on: the same is made, once."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from attar.registry.tracking.run_record import open_runs
from tests.system.campaign.ledger import note_scenario
from tests.system.campaign.lives import Life, fingerprints, prefect_server, rows_of, write_tiny

pytestmark = pytest.mark.slow
HOUR, DAY = 3_600, 86_400
# Set one after the other, again and again, while a run is under way.
SHIFTS = (3 * DAY, -DAY, 400 * DAY, -HOUR, 0, HOUR, -30 * DAY)
SECONDS_BETWEEN = 3.0


class Clock:
    """What the processes that have it preloaded take for the time of day."""

    def __init__(self, folder: Path) -> None:
        self.path, self.library = folder / "shift", folder / "clock.so"
        self.set(0)
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self.library, source], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "ATTAR_CAMPAIGN_CLOCK": str(self.path)}

    def set(self, seconds: int) -> None:
        """Shift the clock; written over, not anew: the processes have the file mapped."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the clock")
    clock = Clock(tmp_path)
    for name, value in clock.environment.items():  # for the server too: it is on the same machine
        monkeypatch.setenv(name, value)
    return clock


def test_the_clock_is_set_for_those_that_run(clock: Clock) -> None:
    script = "import datetime, sys, time; print(time.time(), datetime.datetime.now().timestamp(), flush=True); sys.stdin.readline(); print(time.time())"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        before, same = map(float, child.stdout.readline().split())
        clock.set(-DAY)
        after = float(child.communicate("\n")[0])
    assert abs(same - before) < 10 and abs(before - after - DAY) < 60


@pytest.mark.timeout(3600)
def test_a_clock_that_jumps_changes_nothing(clock: Clock, tmp_path: Path, clean_environment: dict[str, str]) -> None:
    write_tiny(tmp_path)
    home = tmp_path / "home"
    with prefect_server(tmp_path / "server") as served:
        own = clean_environment | served | clock.environment | {"PYTHONPATH": os.getcwd()}
        still = Life(own | {"ATTAR_HOME": str(tmp_path / "still")}, tmp_path)
        assert still.ends_within(900) and still.process.returncode == 0, still.printed()[-3000:]
        environment = own | {"ATTAR_HOME": str(home)}
        killed = Life(environment, tmp_path)
        num_shifts = jump(clock, killed, until_work=home)
        os.killpg(killed.process.pid, signal.SIGKILL)
        assert not killed.orphans()
        clock.set(-2 * DAY)  # it goes on before it was begun
        whole = Life(environment, tmp_path)
        num_shifts += jump(clock, whole)
        clock.set(-7 * DAY)
        again = Life(environment, tmp_path)
        assert again.ends_within(900)
    wanted = fingerprints(still.result())
    for life in (whole, again):
        assert life.process.returncode == 0 and "Traceback" not in life.printed(), life.printed()[-3000:]
        assert fingerprints(life.result()) == wanted
        assert not life.orphans()
    assert {node["state"] for node in again.result()["nodes"].values()} == {"Cached"}
    assert not open_runs(home) and not list((home / "work").iterdir())
    [[num_versions]] = rows_of(home / "mlflow.db", "select count(*) from model_versions where name = 'tiny'")
    assert num_versions == 1
    note_scenario("clock set back and forth", num_shifts=num_shifts, shifts_seconds=SHIFTS)


def jump(clock: Clock, life: Life, until_work: Path | None = None) -> int:
    """Set the clock every few seconds until the run has ended, or has begun its work and met some jumps; return how often."""
    num_shifts = num_at_work = 0
    while num_at_work < len(SHIFTS) and not life.ends_within(SECONDS_BETWEEN):
        clock.set(SHIFTS[num_shifts % len(SHIFTS)])
        num_shifts += 1
        num_at_work += bool(until_work is not None and list(until_work.glob("work/*/work.json")))
        assert num_shifts * SECONDS_BETWEEN < 900, f"it does not end: {life.printed()[-3000:]}"
    return num_shifts
