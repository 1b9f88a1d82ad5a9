"""`compare` with more students than memory holds: one after another they come to the same numbers."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

import attar.stages.compare.stage
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.compare.config import CompareConfig, CompareInputs
from attar.stages.compare.stage import compare
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune


def test_students_in_groups_come_to_the_same_numbers_and_no_more_are_in_memory(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = IngestDataConfig(source="jsonl:shipped/facts.jsonl", max_rows=6)
    tasks = (questions, ingest_data.execute(facts, NoInputs(), store).artifact)
    cut = [prune.execute(PruneConfig(blocks=[at]), PruneInputs(model=model), store).artifact for at in (1, 2)]
    inputs = CompareInputs(model=(model, *cut), original=model, tasks=tasks)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []
    load = attar.stages.compare.stage.load_model

    def counted(*given: Any) -> Any:
        loaded = load(*given)
        alive.add(loaded)
        gc.collect()
        most.append(len(alive))
        return loaded

    monkeypatch.setattr(attar.stages.compare.stage, "load_model", counted)
    config = CompareConfig(
        names=("same", "second", "third"),
        against={"third": ("same",)},
        num_own_answers=2,
        max_new_tokens=6,
        precision="float32",
    )
    comparisons = []
    for size, num_loaded in ((0, 4), (2, 3), (1, 2)):
        most.clear()
        made = compare.execute(config.with_changes(models_at_once=size), inputs, store).artifact
        comparisons.append((json.loads(Path(made.path / "comparison.json").read_text()), made.facts))
        assert max(most) == num_loaded, "the original and so many students"
    assert comparisons[0] == comparisons[1] == comparisons[2]
    content, facts = comparisons[0]
    entry = content["second"]["sums"]["kl_nats"]
    assert entry["value"] > 0.01
    # a figure stands with its interval and what it was measured on, in the content and in the facts
    assert (
        entry["measured_on"].endswith(" tokens")
        and content["second"]["facts"]["retention"]["measured_on"] == "1 question"
    )
    assert [facts[f"second_kl_nats_sums{end}"] for end in ("_low", "", "_high")] == [
        entry["low"],
        entry["value"],
        entry["high"],
    ]


def test_fewer_at_once_are_forecast_to_need_less_memory() -> None:
    facts: Any = {"model": ({},) * 8, "original": ({"num_parameters": 1000},), "tasks": ({},)}
    names = tuple("abcdefgh")
    needed = [
        compare.forecast(CompareConfig(names=names, models_at_once=size), facts).peak_memory_bytes for size in (0, 3, 1)
    ]
    assert needed == [36_000.0, 16_000.0, 8_000.0]
