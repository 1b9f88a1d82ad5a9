"""The campaign: a short seeded part of it always, all of it with the slow tests."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.whole import load_recipe
from tests.system.campaign.__main__ import KINDS
from tests.system.campaign.crew import Tally, try_inputs
from tests.system.campaign.inputs.mutate import ODD_VALUES
from tests.system.campaign.ledger import added, next_seeds, note_scenario, read_record, retried, write_record
from tests.system.campaign.lives import write_tiny
from tests.system.campaign.worker import verdict_on

# So many of each that together they take seconds; folders are written, loaded and run.
NUM_SAMPLED = {"recipes": 60, "settings": 60, "stores": 60, "images": 60, "subjects": 24}


@pytest.mark.parametrize("name", NUM_SAMPLED)
def test_a_sample_of_mutated_inputs_ends_accepted_or_in_lines(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    kind = importlib.import_module(f"tests.system.campaign.inputs.{name}")
    prepared = kind.prepare(tmp_path)
    faults = []
    for seed in range(NUM_SAMPLED[name]):
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


def test_the_recipe_of_the_kills_says_every_precision(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    nodes = yaml.safe_load((tmp_path / "tiny.yaml").read_text())["nodes"]
    assert nodes["student_a"]["config"]["compute"]["precision"] == "float32"
    assert nodes["guidance"]["config"]["training"]["compute"]["precision"] == "float32"
    for node in load_recipe(str(tmp_path / "tiny.yaml")).nodes.values():
        config = json.dumps(node.config.model_dump(mode="json"))
        assert '"precision": "auto"' not in config, (node.name, config)


def test_there_are_enough_odd_values() -> None:
    assert len(ODD_VALUES) > 40


def tally_of(*ends: tuple[int, str]) -> Tally:
    tally = Tally()
    for seed, end in ends:
        tally.add({"seed": seed, "end": end, "cpu_seconds": seed / 10})
    return tally


def test_a_sitting_goes_on_behind_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "campaign.json"
    assert next_seeds(read_record(path, "rows"), 10, 0) == range(10)
    first = added({}, tally_of((0, "accepted"), (2, "fault"), (1, "refused")), {"first_seed": 0, "commit": "a"})
    write_record(path, "gguf", {"num_inputs": 7})
    write_record(path, "rows", first)
    read = read_record(path, "rows")
    assert read == first and read_record(path, "gguf") == {"num_inputs": 7}
    assert next_seeds(read, 10, 0) == range(3, 10)
    assert next_seeds(read, 10, 2) == range(3, 5)
    assert next_seeds(read, 2, 0) == range(3, 3), "it has its full count"
    second = added(read, tally_of((4, "fault"), (3, "accepted"), (6, "accepted")), {"first_seed": 3, "commit": "b"})
    assert second["next_seed"] == 5, "5 was under way when the sitting was ended: it comes first in the next"
    assert (second["num_inputs"], second["accepted"], second["refused"], second["num_faults"]) == (6, 3, 1, 2)
    assert second["max_cpu_seconds"] == 0.6
    assert [(fault["seed"], fault["commit"]) for fault in second["faults"]] == [(2, "a"), (4, "b")]
    assert [(sitting["commit"], sitting["num_inputs"]) for sitting in second["sittings"]] == [("a", 3), ("b", 3)]


def test_a_fault_is_listed_until_its_input_ends_cleanly() -> None:
    record = added({}, tally_of((0, "fault"), (1, "fault")), {"first_seed": 0, "commit": "a"})
    after = retried(record, tally_of((0, "refused"), (1, "fault")), "b")
    assert [fault["seed"] for fault in after["faults"]] == [1]
    assert [(fault["seed"], fault["commit"], fault["mended_at"]) for fault in after["mended"]] == [(0, "a", "b")]
    assert after["num_faults"] == 2


def test_a_scenario_counts_how_often_it_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_CAMPAIGN_RESULTS", str(tmp_path))
    for count in (2, 4):
        note_scenario("runs at once", count=count)
    record = read_record(tmp_path / "scenarios.json", "runs at once")
    assert record["num_passed"] == 2 and record["count"] == 4 and record["commit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_all_mutated_inputs_of_a_kind_end_accepted_or_in_lines(name: str) -> None:
    count = importlib.import_module(f"tests.system.campaign.inputs.{name}").COUNT
    tally = try_inputs(name, range(count), num_workers=2)
    assert sum(tally.counts.values()) == count
    assert not tally.faults, json.dumps(tally.faults[:5], indent=1)
