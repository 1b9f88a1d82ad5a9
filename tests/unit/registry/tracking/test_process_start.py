"""A clock set back or forth changes neither which process is alive nor which run is the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from attar.pipelines.operate.service_state import ProcessMark, mark_of
from attar.registry.artifacts.process_start import is_same_process, start_of
from attar.registry.tracking.run_record import NodeRecord, RunRecord, _stamp, find_run, new_run_folder, open_runs


@pytest.mark.parametrize("seconds", [-86_400.0, -3.0, 3.0, 86_400.0])
def test_a_set_clock_makes_no_live_process_dead(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil works out from the clock of now when a process began: another clock, another answer."""
    mark = mark_of(os.getpid())
    before = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: before + seconds)
    assert mark.process is not None and is_same_process(os.getpid(), mark.created)
    assert start_of(os.getpid()) == mark.created


def test_another_process_with_the_same_id_is_another(tmp_path: Path) -> None:
    own_start = start_of(os.getpid())
    assert ProcessMark(os.getpid(), own_start - 0.5).process is None
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    began = start_of(child.pid)
    assert (began >= own_start and not is_same_process(child.pid, own_start)) or began == own_start
    child.wait()
    assert not is_same_process(child.pid, began) and ProcessMark(child.pid, began).process is None


def test_a_mark_of_an_earlier_version_still_counts() -> None:
    assert ProcessMark(os.getpid(), psutil.Process().create_time()).process is not None


def run_at(home: Path, name: str) -> RunRecord:
    record = RunRecord(home / "runs" / name, "tiny", "f", {"a": NodeRecord("scan", {}, {})})
    record.save()
    return record


def test_a_run_made_after_the_clock_was_set_back_is_the_newest(tmp_path: Path) -> None:
    """What gc keeps is what the newest runs made: a run of now must not pass for an old one."""
    run_at(tmp_path, "20990101-000000-tiny-aaaa")
    later = [run_at(tmp_path, new_run_folder(tmp_path, "tiny").name) for _ in range(3)]
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["20990101-000000-tiny-aaaa", *(record.id for record in later)]
    assert find_run(tmp_path, "latest").id == later[-1].id
    assert len(open_runs(tmp_path)) == 4


def test_a_clock_that_runs_right_gives_the_time(tmp_path: Path) -> None:
    now = datetime(2026, 11, 29, 12, 30, 5, tzinfo=UTC)
    assert _stamp(tmp_path, now) == "20261129-123005"
    run_at(tmp_path, "20261129-123004-tiny-aaaa")
    assert _stamp(tmp_path, now) == "20261129-123005"
    run_at(tmp_path, "zzz-odd")
    assert _stamp(tmp_path, now) == "20261129-123005"
