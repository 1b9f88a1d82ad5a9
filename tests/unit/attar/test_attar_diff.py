"""`attar diff`: fields, artifacts and figures that differ between two runs, and nothing that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.report.difference import RunDifference
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord, new_run_folder
from tests.evaluations import recorded_run


@pytest.fixture
def runs(store: Store) -> tuple[RunRecord, RunRecord]:
    first = recorded_run(store, "first", blocks=[1], right=[1.0, 1.0, 0.0, 1.0] * 5)
    return first, recorded_run(store, "second", blocks=[2], right=[1.0, 0.0, 0.0, 1.0] * 5)


def test_a_run_does_not_differ_from_itself(store: Store, runs: tuple[RunRecord, RunRecord]) -> None:
    assert RunDifference.of((runs[0], store), (runs[0], store)).as_dict() == {
        "fields": [],
        "artifacts": [],
        "figures": [],
    }


def test_what_differs_is_told_and_no_more(store: Store, runs: tuple[RunRecord, RunRecord]) -> None:
    difference = RunDifference.of((runs[0], store), (runs[1], store)).as_dict()
    assert difference["fields"] == [{"node": "smaller", "field": "config.blocks", "first": [1], "second": [2]}]
    assert [(row["node"], row["what"]) for row in difference["artifacts"]] == [
        ("smaller", "other content"),
        ("scores", "other content"),
    ]
    [figure] = difference["figures"]
    assert (figure["model"], figure["figure"], figure["first"], figure["second"]) == ("smaller", "accuracy", 0.75, 0.5)
    assert figure["ratio"]["value"] == pytest.approx(2 / 3)
    assert figure["ratio"]["low"] < 2 / 3 < figure["ratio"]["high"]


def test_the_way_back_is_the_mirror(store: Store, runs: tuple[RunRecord, RunRecord]) -> None:
    there, back = (RunDifference.of((runs[a], store), (runs[b], store)).as_dict() for a, b in ((0, 1), (1, 0)))
    assert [(row["field"], row["first"], row["second"]) for row in there["fields"]] == [
        (row["field"], row["second"], row["first"]) for row in back["fields"]
    ]
    assert there["figures"][0]["ratio"]["value"] * back["figures"][0]["ratio"]["value"] == pytest.approx(1.0)


def test_nodes_and_inputs_of_one_run_alone(store: Store) -> None:
    config = {"limits": {"max_kl_nats": 0.1, "names": []}, "kind": "weights"}
    before = _record(store, {"a": NodeRecord("prune", {}, {}), "b": NodeRecord("quantize", config, {"model": ["a"]})})
    after = _record(
        store,
        {
            "b": NodeRecord("quantize", {**config, "limits": {"max_kl_nats": 0.2, "names": []}}, {"model": ["c"]}),
            "c": NodeRecord("narrow", {}, {}),
        },
    )
    fields = RunDifference.of((before, store), (after, store)).fields
    assert [(row["node"], row["field"], row["first"], row["second"]) for row in fields] == [
        ("a", "stage", "prune", None),
        ("b", "inputs.model", ["a"], ["c"]),
        ("b", "config.limits.max_kl_nats", 0.1, 0.2),
        ("c", "stage", None, "narrow"),
    ]


def test_the_command_shows_tables_and_json(runs: tuple[RunRecord, RunRecord]) -> None:
    shown = CliRunner().invoke(app, ["diff", runs[0].id, runs[1].id])
    assert shown.exit_code == 0, shown.output
    for part in ("config.blocks", "[1]", "[2]", "other content", "accuracy", "0.667x ["):
        assert part in shown.stdout
    printed = json.loads(CliRunner().invoke(app, ["diff", runs[0].id, runs[1].id, "--json"]).stdout)
    assert set(printed) == {"first", "second", "fields", "artifacts", "figures"}
    same = CliRunner().invoke(app, ["diff", runs[0].id, runs[0].id])
    assert same.stdout.count("no difference") == 3


def test_an_unknown_run_is_told_in_a_line(store: Store, runs: tuple[RunRecord, RunRecord], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["diff", runs[0].id, "2031"])
    assert done.exit_code == 2
    assert done.stderr.strip() == "attar: run '2031': 0 runs match; `attar list runs` has their ids"


def _record(store: Store, nodes: dict[str, NodeRecord]) -> RunRecord:
    record = RunRecord(new_run_folder(store.root, "nodes"), "nodes", "0", nodes)
    record.close()
    return record
