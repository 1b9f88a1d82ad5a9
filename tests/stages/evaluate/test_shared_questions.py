"""Evaluation shared among workers: the same figures whatever their number, the model as a whole measured by the first alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, EvaluationArtifact, ModelArtifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.evaluate.causal.measurements import FILE, dealt
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.runtime.progress import Event, Metric, listen

CONFIG = EvaluateConfig(
    max_new_tokens=4, num_samples=3, batch_size=4, perplexity_window=16, precision="float32", timing={"num_prompt_tokens": 8}
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(
    model: ModelArtifact, questions: DatasetArtifact, tmp_path_factory: pytest.TempPathFactory
) -> EvaluateInputs:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": "Pick " * (i % 4) + f"{i}", "choices": ["red", "a blue one", "no"], "answer": i % 3}
        for i in range(9)
    ]
    (folder / "colors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "story.txt").write_text("The boat came in at dawn, and nobody saw it. " * 12)
    store = Store(folder / "home")
    colors, story = (
        ingest_data.execute(IngestDataConfig(source=source, heldout_fraction=0.0), NoInputs(), store).artifact
        for source in (f"jsonl:{folder / 'colors.jsonl'}", f"text:{folder / 'story.txt'}")
    )
    return EvaluateInputs(model=model, tasks=(colors, questions), text=story)


def content(artifact: EvaluationArtifact) -> dict[str, Any]:
    return {
        name: value for name, value in json.loads((artifact.path / "evaluation.json").read_text()).items() if name != "latency"
    }  # fmt: skip


@pytest.mark.parametrize("num_shards", [2, 3])
def test_any_number_of_shards_measures_the_same(tmp_path: Path, inputs: EvaluateInputs, num_shards: int) -> None:
    store = Store(tmp_path / "shared")
    shards = [
        evaluate.execute_shard(CONFIG, inputs, store, Shard(index, num_shards)).artifact for index in range(num_shards)
    ]
    for shard in shards:
        measured = json.loads((shard.path / FILE).read_text())
        assert bool(measured["figures"]) == (shard.facts.shard_index == 0) and measured["pieces"]
    heard: list[Event] = []
    with listen(heard.append):
        shared = evaluate.execute(CONFIG, inputs, store, shards=shards).artifact
    alone = evaluate.execute(CONFIG, inputs, Store(tmp_path / "alone")).artifact
    assert content(shared) == content(alone)
    answers = [(side.path / "records" / "answers.jsonl").read_text() for side in (shared, alone)]
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == sum(content(shared)["num_rows"].values())
    assert shared.facts.keys() == alone.facts.keys()
    names = [event.name for event in heard if isinstance(event, Metric)]
    assert "accuracy" in names and len({*names}) == len(names), "told once"


def test_what_one_worker_measures_whole_is_refused(tmp_path: Path, inputs: EvaluateInputs) -> None:
    sharding = evaluate.sharding
    assert sharding is not None
    facts = {"model": ({},), "tasks": ({"num_rows": 3}, {"num_rows": 4}), "baseline": ({},)}
    sharding.check(7, CONFIG, facts)
    with pytest.raises(ValueError, match="shards is 8, but the work comes in 7 questions or windows of text; accepted"):
        sharding.check(8, CONFIG, facts)
    stop = CONFIG.with_changes(stop={"checks": [{"measure": "accuracy_drop", "limit": 0.1}]})
    with pytest.raises(ValueError, match="stop: what is asked next hangs on all answers so far; accepted: shards: 1"):
        sharding.check(2, stop, facts)
    with pytest.raises(ValueError, match="shards: one worker measures an encoder whole; accepted: 1"):
        sharding.check(2, CONFIG, {"model": ({"pooling": "mean"},)})
    small = EvaluateInputs(model=inputs.model, tasks=inputs.tasks[:1])
    with pytest.raises(ValueError, match="shards is 10, but the work comes in 9 questions or windows of text"):
        evaluate.execute_shard(CONFIG, small, Store(tmp_path), Shard(3, 10))


def test_texts_are_dealt_in_whole_batches_of_like_length() -> None:
    lengths = [5, 1, 9, 7, 3, 8, 2]
    assert [dealt(lengths, 2, Shard(index, 2)) for index in range(2)] == [[1, 2, 5], [0, 3, 4, 6]]
    assert dealt(lengths, 2, Shard(0, 1)) == list(range(7))
