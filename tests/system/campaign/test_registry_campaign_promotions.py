"""MLflow's database under promotions at once, locks and kills: no raw error, one champion, one chain, and what was half made is made whole."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attar.registry.release.alias_lock import patiently
from attar.registry.release.model_registry import CHAMPION, PREVIOUS, register_model
from attar.registry.release.promotion import REPLACES_TAG, make_champion
from attar.registry.release.reference import NoSuchVersionError
from attar.registry.release.versions import find_version, read_version
from tests.system.campaign.ledger import note_scenario

pytestmark = pytest.mark.slow
NUM = 8
PROMOTE = """
import sys
from pathlib import Path
from attar.registry.release.promotion import make_champion
gate = Path(sys.argv[2])
while not gate.exists():
    pass
make_champion("one", sys.argv[1], f"by {sys.argv[1]}")
"""
# Makes a home's database in a fork of its own, killed after a share of the time that it takes; then makes it again, undisturbed.
MAKE = """
import json, os, signal, sys, time, traceback
from pathlib import Path
from attar.registry.tracking.mlflow_home import experiment_id, open_client

def begin(home):
    pid = os.fork()
    if pid:
        return pid
    try:
        experiment_id(open_client(home), home)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

folder, shares = Path(sys.argv[1]), json.loads(sys.argv[2])
started = time.monotonic()
assert os.waitpid(begin(folder / "whole"), 0)[1] == 0
seconds, ends = time.monotonic() - started, []
for index, share in enumerate(shares):
    home = folder / str(index)
    pid = begin(home)
    time.sleep(share * seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ends.append(os.waitpid(begin(home), 0)[1])
print(json.dumps({"seconds": seconds, "ends": ends}))
"""
NUM_MADE = 25


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("ATTAR_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "ATTAR_MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def write(target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        (target / "MLmodel").write_text("flavors: {}")

    for index in range(NUM):
        register_model("one", f"key{index}", write, metrics={}, params={}, tags={}, scratch=tmp_path, is_champion=False)
    return folder


@pytest.mark.timeout(600)
def test_eight_promotions_at_once_leave_one_champion_and_a_whole_chain(home: Path, tmp_path: Path) -> None:
    own = os.environ | {"PYTHONPATH": os.getcwd()}
    gate = tmp_path / "go"
    numbers = [str(number + 1) for number in range(NUM)]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROMOTE, number, str(gate)], env=own, stderr=subprocess.PIPE, text=True)
        for number in numbers
    ]
    gate.touch()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * NUM, errors
    assert not [text for text in errors if "Traceback" in text or "locked" in text]
    champion, previous = find_version("one", CHAMPION), find_version("one", PREVIOUS)
    assert champion is not None and previous is not None
    chain = [champion.number]
    while replaced := read_version(f"one/{chain[-1]}").tags.get(REPLACES_TAG, ""):
        chain.append(replaced)
    assert chain[1] == previous.number
    assert sorted(chain) == sorted(numbers), "each took over from another one, and none twice"


@pytest.mark.timeout(900)
def test_a_database_whose_making_was_killed_is_made_whole(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    shares = [round((index + 0.5) / NUM_MADE, 3) for index in range(NUM_MADE)]
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(tmp_path), json.dumps(shares)],
        env=own | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    failed = [share for share, end in zip(shares, report["ends"], strict=True) if end]
    assert not failed, f"killed after these shares of {report['seconds']:.1f} s: {failed}\n{done.stderr[-3000:]}"
    note_scenario("killed while MLflow's database was made", num_kills=NUM_MADE)


@pytest.mark.timeout(300)
def test_a_locked_database_is_waited_for(home: Path) -> None:
    """Another process holds MLflow's SQLite for longer than SQLite itself waits."""
    holder = sqlite3.connect(home / "mlflow.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(12.0, lambda: holder.execute("ROLLBACK"))
    release.start()
    assert make_champion("one", "3", "after the wait") is None
    release.join()
    assert read_version("one@champion").number == "3"


def test_no_answer_is_not_no_champion(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_champion("one", "2", "first")
    assert find_version("one", PREVIOUS) is None
    with pytest.raises(NoSuchVersionError):
        read_version("one/77")
    monkeypatch.setattr("attar.registry.release.alias_lock.BUSY_SECONDS", 1.0)
    holder = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ValueError, match="MLflow") as refusal:
        find_version("one", CHAMPION)
    holder.execute("ROLLBACK")
    assert "\n" not in str(refusal.value) and not isinstance(refusal.value, NoSuchVersionError)
    assert patiently(lambda: 1) == 1
