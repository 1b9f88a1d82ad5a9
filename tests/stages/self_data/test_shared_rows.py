"""Rewriting shared among workers: the same data set whatever their number, each shard on its own, a killed one alone again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.shard_facts import Shard, ShardArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs, Stage
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.runtime.progress import Event, Metric, Note, listen
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.stages.self_data.rewritten import CONFIG

# Three pieces of questions and two of free texts, all drawn: what a row gets must hang on the row alone.
DRAWN = CONFIG.with_changes(drawing={"temperature": 1.0}, free_texts={"num": 8, "tokens": 6, "start": "<|endoftext|>"})
RECORDED = RecordConfig(num_recorded=8, rows_per_shard=3, batch_size=2, precision="float32")


def gathered(stage: Stage[Any, Any, Any], config: Any, inputs: Any, home: Path, num_shards: int) -> DatasetArtifact:
    """The data set of a home of its own, and each shard made once."""
    store = Store(home)
    shards = [stage.execute_shard(config, inputs, store, Shard(index, num_shards)) for index in range(num_shards)]
    assert not any(outcome.is_hit for outcome in shards)
    again = stage.execute_shard(config, inputs, store, Shard(0, num_shards))
    assert again.is_hit and again.artifact.shard == Shard(0, num_shards)
    return stage.execute(config, inputs, store, shards=[outcome.artifact for outcome in shards]).artifact


@pytest.mark.parametrize("name", ["self_data", "record"])
def test_any_number_of_shards_makes_the_same_data_set(
    tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact, name: str
) -> None:
    stage, config, inputs = {
        "self_data": (self_data, DRAWN, SelfDataInputs(model=model, data=questions)),
        "record": (record, RECORDED, RecordInputs(model=model, data=questions)),
    }[name]
    made = [stage.execute(config, inputs, Store(tmp_path / "alone")).artifact]
    made += [gathered(stage, config, inputs, tmp_path / str(num_shards), num_shards) for num_shards in (2, 3)]
    assert len({artifact.fingerprint for artifact in made}) == 1 and len({artifact.key for artifact in made}) == 1
    assert [dict(artifact.facts) for artifact in made] == [dict(made[0].facts)] * 3
    store = Store(tmp_path / "3")
    costs = [store.manifest(artifact)["cpu_seconds"] for artifact in store.artifacts()]
    assert store.manifest(made[2])["cpu_seconds"] >= sum(costs) / 2 > 0, "that of all workers, and of gathering"


def test_metrics_are_told_once_by_who_gathers(tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact) -> None:
    """Drafts are counted by each worker, and told of all together."""
    inputs, store = SelfDataInputs(model=model, data=questions), Store(tmp_path)
    heard: list[Event] = []
    with listen(heard.append):
        shards = [self_data.execute_shard(CONFIG, inputs, store, Shard(index, 3)).artifact for index in range(3)]
    assert not [event for event in heard if isinstance(event, Metric)]
    with listen(heard.append):
        self_data.execute(CONFIG, inputs, store, shards=shards)
    alone: list[Event] = []
    with listen(alone.append):
        self_data.execute(CONFIG, inputs, Store(tmp_path / "alone"))
    metrics, alone_metrics = ([event for event in events if isinstance(event, Metric)] for events in (heard, alone))
    assert metrics == alone_metrics and len({event.name for event in metrics}) == len(metrics)
    assert any(event.name.startswith("tokens_per_pass_") for event in metrics)


def test_a_killed_worker_costs_its_shard_alone(
    tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard dies behind its first piece: it goes on there, and the first is not touched."""
    from attar.stages.artifacts.dataset import partial_rows as module

    inputs, store, real = SelfDataInputs(model=model, data=questions), Store(tmp_path), module.write_shard
    first = self_data.execute_shard(DRAWN, inputs, store, Shard(0, 2)).artifact
    written: list[int] = []

    def write_then_die(folder: Path, index: int, *rest: Any) -> None:
        real(folder, index, *rest)
        written.append(index)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_shard", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        self_data.execute_shard(DRAWN, inputs, store, Shard(1, 2))
    notes: list[Event] = []
    with listen(notes.append):
        second = self_data.execute_shard(DRAWN, inputs, store, Shard(1, 2)).artifact
    assert written == Shard(1, 2).pieces(5), "each once"
    assert any(isinstance(event, Note) and event.text.startswith("continuing: 1 of 2") for event in notes)
    whole = self_data.execute(DRAWN, inputs, store, shards=[first, second]).artifact
    assert whole.fingerprint == self_data.execute(DRAWN, inputs, Store(tmp_path / "alone")).artifact.fingerprint


def test_more_shards_than_pieces_and_missing_shards_are_refused(
    tmp_path: Path, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    store, inputs = Store(tmp_path), SelfDataInputs(model=model, data=questions)
    message = "shards is 4, but the work comes in 3 pieces of rows_per_shard rows; accepted: 1 to 3"
    with pytest.raises(ValueError, match=message):
        self_data.execute_shard(CONFIG, inputs, store, Shard(0, 4))
    facts = {"model": (model.facts,), "data": (questions.facts,)}
    assert self_data.sharding is not None and record.sharding is not None
    with pytest.raises(ValueError, match=message):  # told by the plan
        self_data.sharding.check(4, CONFIG, facts)
    record.sharding.check(100, RECORDED, facts)  # a text's rows are not known before it is cut
    with pytest.raises(ValueError, match="comes in 4 pieces of rows_per_shard rows; accepted: 1 to 4"):
        record.execute_shard(RECORDED, RecordInputs(model=model, data=questions), store, Shard(1, 5))
    shard: ShardArtifact = self_data.execute_shard(CONFIG, inputs, store, Shard(0, 2)).artifact
    with pytest.raises(ValueError, match=r"of 1 given, number 0 is not there once"):
        self_data.execute(CONFIG, inputs, store, shards=[shard])


def test_a_text_is_recorded_in_shards_too(tmp_path: Path, model: ModelArtifact) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and looked at the moon. " * 40)
    text = ingest_data.execute(IngestDataConfig(source=f"text:{path}"), NoInputs(), Store(tmp_path / "text")).artifact
    config = RECORDED.with_changes(max_tokens=32)
    inputs = RecordInputs(model=model, data=text)
    whole = record.execute(config, inputs, Store(tmp_path / "whole")).artifact
    assert gathered(record, config, inputs, tmp_path / "parts", 2).fingerprint == whole.fingerprint
