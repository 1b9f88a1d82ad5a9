"""`check_behaviour` on small models: no flip against itself, flips with their texts against a cut, and it goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attar.stages.compare.behaviour.stage
from attar.pipelines.report.page import write_report
from attar.registry.artifacts.handles import FLIPS, BehaviourArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.registry.tracking.mlflow_home import open_client
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder
from attar.registry.tracking.runs import Tracker
from attar.stages.compare.behaviour.config import BehaviourConfig, BehaviourInputs
from attar.stages.compare.behaviour.stage import check_behaviour
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.databases import copy_database

CONFIG = BehaviourConfig(
    max_cases=4, max_new_tokens=6, verbatim={"num_prefix_tokens": 4, "num_match_tokens": 4}, precision="float32"
)
GROUPS = {"refusals", "format", "copying", "arithmetic", "brackets", "position", "ending"}


def content(artifact: BehaviourArtifact) -> dict:
    return json.loads((artifact.path / "behaviour.json").read_text())


def flips(artifact: BehaviourArtifact) -> list[dict]:
    return [json.loads(line) for line in (artifact.path / FLIPS).read_text().splitlines()]


def test_a_model_behaves_as_itself(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    inputs = BehaviourInputs(model=model, original=model, cases=(questions,), training=(questions,))
    made = check_behaviour.execute(CONFIG, inputs, store).artifact
    groups = content(made)["groups"]
    assert groups.keys() == {*GROUPS, "sums", "verbatim"}
    assert all(drop["lost"] == drop["won"] == drop["drop"] == 0 for drop in groups.values())
    assert groups["ending"]["num_cases"] == 4 * 4 + groups["sums"]["num_cases"], "every written answer"
    assert flips(made) == [] and made.facts["drop_refusals"] == 0.0
    assert made.facts.model_fingerprint == made.facts.original_fingerprint == model.fingerprint


def test_flips_of_a_cut_stand_with_both_texts(store: Store, model: ModelArtifact) -> None:
    cut = prune.execute(PruneConfig(blocks=[0, 2]), PruneInputs(model=model), store).artifact
    config = CONFIG.with_changes(max_cases=0, groups=["brackets", "position"])
    made = check_behaviour.execute(config, BehaviourInputs(model=cut, original=model), store).artifact
    checked, groups = content(made), content(made)["groups"]
    assert groups.keys() == {"brackets", "position"}
    for name, drop in groups.items():
        pairs = list(zip(checked["outcomes"][name]["student"], checked["outcomes"][name]["original"], strict=True))
        assert drop["lost"] == pairs.count((0.0, 1.0)) and drop["won"] == pairs.count((1.0, 0.0))
        assert drop["low"] <= drop["drop"] <= drop["high"]
    listed = flips(made)
    assert len(listed) == sum(drop["lost"] + drop["won"] for drop in groups.values()) > 0
    assert all(flip["original"] and flip["student"] and flip["question"] for flip in listed)


def test_flips_stand_in_the_report_and_as_a_table_in_mlflow(
    store: Store, model: ModelArtifact, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_database(mlflow_database, store.root / "mlflow.db")
    cut = prune.execute(PruneConfig(blocks=[0, 2]), PruneInputs(model=model), store).artifact
    config = CONFIG.with_changes(max_cases=0, groups=["brackets", "position"])
    made = check_behaviour.execute(config, BehaviourInputs(model=cut, original=model), store).artifact
    tracker = Tracker(store.root)
    tracker.start("run", tags={}, config={})
    tracker.start_node("behaviour", config={}, tags={})
    tracker.end_node("behaviour", "FINISHED", made)
    table = open_client(store.root).download_artifacts(tracker.node_run_id("behaviour"), "flips.json")
    content_of = json.loads(Path(table).read_text())
    assert content_of["columns"] == ["group", "flip", "question", "reference", "original", "student", "why"]
    assert len(content_of["data"]) == len(flips(made))
    node = NodeRecord("check_behaviour", {}, {}, "Completed", made.key, made.fingerprint)
    record = RunRecord(new_run_folder(store.root, "checked"), "checked", "0", {"behaviour": node}, seconds=1.0)
    record.close()
    page = write_report(record, store).read_text()
    assert "Behaviour (behaviour)" in page and f"{len(flips(made))} flips with their texts" in page


def test_a_killed_check_asks_only_the_model_that_was_not_finished(
    store: Store, model: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = prune.execute(PruneConfig(blocks=[0]), PruneInputs(model=model), store).artifact
    inputs, config = BehaviourInputs(model=cut, original=model), CONFIG.with_changes(groups=["brackets"])
    load, loaded = attar.stages.compare.behaviour.stage.load_model, []

    def once(folder: Path, *given):
        if folder == cut.path and not loaded.count(cut.path):
            loaded.append(folder)
            raise KeyboardInterrupt
        loaded.append(folder)
        return load(folder, *given)

    monkeypatch.setattr(attar.stages.compare.behaviour.stage, "load_model", once)
    with pytest.raises(KeyboardInterrupt):
        check_behaviour.execute(config, inputs, store)
    check_behaviour.execute(config, inputs, store)
    assert loaded == [model.path, cut.path, cut.path]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Why?", "answer": "Because."}], "has no verifier"),
        ([{"text": "No question."}], "it has no question"),
    ],
)
def test_cases_that_cannot_be_checked_are_refused(
    store: Store, model: ModelArtifact, tmp_path: Path, rows: list[dict], message: str
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = ingest_data.execute(IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0), NoInputs(), store)
    inputs = BehaviourInputs(model=model, original=model, cases=(data.artifact,))
    with pytest.raises(ValueError, match=f"cases 'own': .*{message}; accepted: questions with choices or a verifier"):
        check_behaviour.execute(CONFIG, inputs, store)


def test_nothing_to_check_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to check"):
        check_behaviour.forecast(CONFIG.with_changes(groups=[]), {"model": ({},), "original": ({},)})
