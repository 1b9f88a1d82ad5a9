"""The campaign: a short seeded part of it always, all of it with the slow tests."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

import pytest

from tests.system.campaign.__main__ import KINDS
from tests.system.campaign.crew import try_inputs
from tests.system.campaign.mutate import ODD_VALUES
from tests.system.campaign.worker import verdict_on

NUM_SAMPLED = 60


@pytest.mark.parametrize("name", ["recipes", "stores"])
def test_a_sample_of_mutated_inputs_ends_accepted_or_in_lines(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    kind = importlib.import_module(f"tests.system.campaign.{name}")
    prepared = kind.prepare(tmp_path)
    faults = []
    for seed in range(NUM_SAMPLED):
        folder = tmp_path / str(seed)
        folder.mkdir()
        verdict = verdict_on(kind, prepared, seed, folder)
        faults += [verdict] if verdict["end"] == "fault" else []
    assert not faults, json.dumps(faults[:3], indent=1)


class Broken:
    """An input that ends as no input may."""

    CLEAN = (ValueError,)

    def __init__(self, error: BaseException | None = None, seconds: float = 0.0) -> None:
        self.error, self.seconds = error, seconds

    def attempt(self, prepared: object, seed: int, folder: Path) -> None:
        started = time.process_time()
        while time.process_time() - started < self.seconds:
            sum(range(10_000))
        if self.error:
            raise self.error


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, "accepted"),
        (ValueError("one line"), "refused"),
        (ValueError("two\nlines"), "fault"),
        (ValueError(""), "fault"),
        (ValueError("x" * 5000), "fault"),
        (KeyError("x"), "fault"),
        (RecursionError(), "fault"),
        (SystemExit(1), "fault"),
        (MemoryError(), "fault"),
    ],
)
def test_what_is_no_clean_end_is_a_fault(error: BaseException | None, end: str, tmp_path: Path) -> None:
    assert verdict_on(Broken(error), None, 0, tmp_path)["end"] == end


def test_an_input_that_takes_too_long_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.system.campaign.worker.MAX_CPU_SECONDS", 0.05)
    assert "processor time" in verdict_on(Broken(seconds=0.1), None, 0, tmp_path)["reason"]


def test_there_are_enough_odd_values() -> None:
    assert len(ODD_VALUES) > 40


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_all_mutated_inputs_of_a_kind_end_accepted_or_in_lines(name: str) -> None:
    count = importlib.import_module(f"tests.system.campaign.{name}").COUNT
    tally = try_inputs(name, range(count), num_workers=2)
    assert sum(tally.counts.values()) == count
    assert not tally.faults, json.dumps(tally.faults[:5], indent=1)
