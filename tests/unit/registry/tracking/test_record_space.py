"""A run's record on a full disk: a run that goes on costs its record a warning, and the next change with space writes it whole."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attar.registry.artifacts.disk_space import DiskFullError
from attar.registry.tracking.run_record import NodeRecord, RunRecord, find_run, new_run_folder


@contextmanager
def no_space() -> Iterator[None]:
    """Let the kernel refuse every byte written to a file, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def record_in(home: Path) -> RunRecord:
    return RunRecord(new_run_folder(home, "tiny"), "tiny", "f" * 8, {"node": NodeRecord("prune", {}, {})})


def test_a_run_goes_on_when_its_record_has_no_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = record_in(tmp_path)
    record.begin()
    with caplog.at_level(logging.WARNING), no_space():
        record.update("node", state="Running")
        record.update("node", state="Failed", cause="no space")
    assert caplog.text.count("no space for the record of run") == 1
    assert find_run(tmp_path, "latest").nodes["node"].state == "Pending", "the old one is whole"
    assert [path.name for path in record.folder.iterdir()] == ["run.json"]
    record.close()
    assert find_run(tmp_path, "latest").nodes["node"].cause == "no space"


def test_a_run_that_cannot_be_written_down_does_not_begin(tmp_path: Path) -> None:
    with no_space(), pytest.raises(DiskFullError, match=f"^no space for the record of a run under {tmp_path}/runs: "):
        record_in(tmp_path).begin()
    assert not list(tmp_path.glob("runs/*/*"))


def test_another_refusal_of_the_file_system_is_raised(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        record_in(tmp_path).save()
