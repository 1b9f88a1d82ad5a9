"""What a plan learns from finished nodes: it gives back what was measured, says nothing where it knows nothing, and no file can break it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.registry.artifacts import rates
from attar.registry.artifacts.rates import MAX_KEPT, RATES, forecast_seconds, learn_rate


def predicted_seconds(home: Path, stage: str, num_flops: float, num_bytes: float = 0.0) -> float | None:
    return forecast_seconds(home, [(stage, num_flops, num_bytes)])[0]


def test_a_line_is_given_back(tmp_path: Path) -> None:
    """Two seconds to start and 1e9 FLOPs a second: exact, as three points of a line fix it."""
    for num_flops in (1e9, 4e9, 2e10):
        learn_rate(tmp_path, "scan", num_flops, 0.0, 2.0 + num_flops / 1e9)
    assert predicted_seconds(tmp_path, "scan", 1e10) == pytest.approx(12.0)
    assert predicted_seconds(tmp_path, "scan", 1e6) == pytest.approx(2.0, rel=1e-3), "a small work is all start"
    assert predicted_seconds(tmp_path, "scan", 1e12) == pytest.approx(1002.0), "20 s were long enough to tell the speed"


def test_what_was_never_seen_is_not_told(tmp_path: Path) -> None:
    assert predicted_seconds(tmp_path, "scan", 1e9) is None
    learn_rate(tmp_path, "scan", 1e9, 0.0, 1.0)
    assert predicted_seconds(tmp_path, "scan", 1e9) == pytest.approx(1.0)
    assert predicted_seconds(tmp_path, "scan", 0.0) is None, "a work of unknown size"
    assert predicted_seconds(tmp_path, "merge", 1e9) is None, "another stage"
    assert predicted_seconds(tmp_path, "scan", 0.0, num_bytes=1e9) is None, "bytes are no FLOPs"
    assert predicted_seconds(tmp_path, "scan", 1e12) is None, (
        "a second is mostly start: it tells nothing of a thousand times the work"
    )
    assert predicted_seconds(tmp_path, "scan", 1e6) is None, "and nothing of how much of it is start"


def test_bytes_count_where_flops_are_not_known(tmp_path: Path) -> None:
    learn_rate(tmp_path, "export", 0.0, 5e8, 20.0)
    assert predicted_seconds(tmp_path, "export", 0.0, num_bytes=1e9) == pytest.approx(40.0)


def test_more_work_never_takes_less_time(tmp_path: Path) -> None:
    for num_flops, seconds in ((1e9, 30.0), (2e9, 20.0), (8e9, 25.0), (9e9, 12.0)):
        learn_rate(tmp_path, "scan", num_flops, 0.0, seconds)
    times = [predicted_seconds(tmp_path, "scan", amount * 1e9) for amount in range(1, 10)]
    known = [time for time in times if time is not None]
    assert len(known) == len(times) and sorted(known) == known and known[0] > 0


def test_another_machine_knows_nothing_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_rate(tmp_path, "scan", 1e9, 0.0, 1.0)
    monkeypatch.setattr(rates, "machine_name", lambda: "another, 96 cores")
    assert predicted_seconds(tmp_path, "scan", 1e9) is None


ENTRY = '{"scan": [{"machine": "m", "num_flops": %s, "num_bytes": 0, "seconds": 1}]}'
DAMAGED = ["", "[]", "{", '{"scan": 3}', '{"scan": [{"seconds": 1}]}', '{"scan": [null]}', "\0"]


@pytest.mark.parametrize("content", [*DAMAGED, *(ENTRY % value for value in ('"much"', "NaN", "-1", "[1]"))])
def test_a_damaged_file_knows_nothing_and_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / RATES).write_text(content)
    assert predicted_seconds(tmp_path, "scan", 1e9) is None
    learn_rate(tmp_path, "scan", 1e9, 0.0, 1.0)
    assert predicted_seconds(tmp_path, "scan", 1e9) == pytest.approx(1.0)


def test_the_file_stays_small(tmp_path: Path) -> None:
    for index in range(MAX_KEPT + 5):
        learn_rate(tmp_path, "scan", 1e9 + index, 0.0, 1.0)
    assert len(rates._read(tmp_path)["scan"]) == MAX_KEPT
